"""Top-1 values that Sariyildiz et al. 2023 (arXiv 2212.08420) published, for the settings they were measured with.

Their numbers on ImageNet-v2 do not say which of its three variants they are of, and their real networks were trained
by other recipes, so neither stands here.
"""

from typing import NamedTuple

from shared.vision.real.known_sets import KNOWN_SETS

from shared.classes import ClassSelection, listed_wnids
from shared.experiments import Cell
from shared.recipes import IMAGENET_SD, TrainingRecipe
from shared.specs import TrainingRequest

MODEL, ARCHITECTURE = "sd14", "resnet50"
CROP_PCT = 0.875
VAL_IMAGES_PER_CLASS = 50


class Setting(NamedTuple):
    classes: str
    size: str
    prompt: str
    guidance: float


BEST_IN100, LARGEST_IN100 = Setting("in100", "1x", "description", 2.0), Setting("in100", "50x", "description", 2.0)
BEST_IN1K = Setting("in1k", "1x", "description", 2.0)
PUBLISHED: dict[tuple[Setting, str], float] = {
    (Setting("in100", "1x", "name", 7.5), "imagenet-val"): 0.431,
    (Setting("in100", "1x", "description", 7.5), "imagenet-val"): 0.469,
    (Setting("in100", "1x", "background", 7.5), "imagenet-val"): 0.515,
    (BEST_IN100, "imagenet-val"): 0.635,
    (Setting("in100", "10x", "description", 2.0), "imagenet-val"): 0.724,
    (Setting("in100", "20x", "description", 2.0), "imagenet-val"): 0.724,
    (LARGEST_IN100, "imagenet-val"): 0.733,
    (Setting("in1k", "1x", "description", 7.5), "imagenet-val"): 0.262,
    (Setting("in1k", "1x", "background", 7.5), "imagenet-val"): 0.301,
    (BEST_IN1K, "imagenet-val"): 0.429,
    (BEST_IN100, "imagenet-sketch"): 0.418,
    (BEST_IN100, "imagenet-r"): 0.642,
    (BEST_IN100, "imagenet-a"): 0.137,
    (LARGEST_IN100, "imagenet-sketch"): 0.420,
    (LARGEST_IN100, "imagenet-r"): 0.594,
    (LARGEST_IN100, "imagenet-a"): 0.171,
    (BEST_IN1K, "imagenet-sketch"): 0.166,
    (BEST_IN1K, "imagenet-r"): 0.263,
    (BEST_IN1K, "imagenet-a"): 0.036,
}


def published_top1(
    setting: Setting, fields: TrainingRequest, recipe: TrainingRecipe, *, kind: str | None, crop_pct: float, images: int
) -> float | None:
    """Of the set `kind` (shared/vision/real/known_sets.py), whatever name it was registered by.

    None unless everything that shapes the result is as it was published, and `images` were all of the test images.
    """
    as_published = fields.steps is None and fields.image_size is None and fields.architecture == ARCHITECTURE
    if not as_published or recipe != IMAGENET_SD or crop_pct != CROP_PCT or kind is None:
        return None
    expected = expected_images(setting.classes, kind)
    if expected is not None and images != expected:
        return None
    return PUBLISHED.get((setting, kind))


def setting_of(classes: ClassSelection, cell: Cell) -> Setting | None:
    """None for what was published of no dataset."""
    # Their sampler steps are those of the model's card, which a cell without steps takes.
    as_published = cell.model == MODEL and cell.steps is None and cell.approximation is None
    if not isinstance(classes, str) or cell.size is None or not as_published:
        return None
    return Setting(classes, cell.size, cell.prompt.kind, cell.scale)


def expected_images(classes: str, kind: str) -> int | None:
    """Of these classes; None where no count per class is published."""
    if classes == "in1k" and kind in KNOWN_SETS:
        return KNOWN_SETS[kind].images
    return VAL_IMAGES_PER_CLASS * len(listed_wnids(classes)) if kind == "imagenet-val" else None
