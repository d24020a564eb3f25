"""The model card for people, with the figures measured on the very weights it lies beside."""

from pathlib import Path

from .card import ModelCard
from .check import IMAGES_PER_CLASS, Figures

TEMPLATE = Path(__file__).with_name("readme.template.md")


def write_readme(card: ModelCard, figures: Figures, folder: Path) -> None:
    """Fill in the template; the size counts the other files of the folder."""
    size_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and file.name != "README.md")
    text = TEMPLATE.read_text(encoding="utf-8").format(
        name=card.name,
        megabytes=size_bytes / 1e6,
        size=card.image_size,
        classes=", ".join(card.classes.values()),
        training_images=card.training_images,
        steps=card.steps,
        guidance=card.guidance,
        train_seconds=card.train_seconds,
        versions=", ".join(f"{library} {version}" for library, version in card.versions.items()),
        per_class=IMAGES_PER_CLASS,
        total=IMAGES_PER_CLASS * len(card.classes),
        real_accuracy=figures.real_accuracy,
        few_real_accuracy=figures.few_real_accuracy,
        synthetic_accuracy=figures.synthetic_accuracy,
        agreement=_agreement_rows(card, figures),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def _agreement_rows(card: ModelCard, figures: Figures) -> str:
    rows = [f"| first name | {guidance} | {share:.1%} |" for guidance, share in figures.agreement.items()]
    held_out = f"| names, hypernym, place left out of training | {card.guidance} | {figures.held_out_agreement:.1%} |"
    return "\n".join([*rows, held_out])
