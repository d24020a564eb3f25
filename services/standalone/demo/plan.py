"""What the demo asks the API for."""

from dataclasses import dataclass

from shared.specs import DatasetRequest, EvaluationRequest, TrainingRequest

REAL_TRAINING_SET = "digits-train"
BENCHMARK = "digits"


@dataclass(frozen=True)
class DemoPlan:
    """Every training sees the same number of steps, so that the bars differ only in their training images."""

    images_per_class: int = 125
    guidances: tuple[float, ...] = (7.5, 2.0)
    seeds: tuple[int, ...] = (0, 1, 2)
    architecture: str = "test_resnet"
    steps: int = 300
    batch_size: int = 64

    @property
    def words(self) -> str:
        seeds = ", ".join(map(str, self.seeds))
        return (
            f"Every row: {self.architecture}, {self.steps} steps of {self.batch_size} images, seeds {seeds}; "
            f"synthetic images from class description prompts, {self.images_per_class} per class."
        )

    def dataset(self, guidance: float) -> DatasetRequest:
        return DatasetRequest.model_validate(
            {
                "classes": "digits",
                "prompt": "description",
                "scale": guidance,
                "images_per_class": self.images_per_class,
                "model": "digits-sd",
            }
        )

    def training(self, dataset: str | None, seed: int) -> TrainingRequest:
        """On one dataset, or on the real images when there is none."""
        source = {"datasets": (dataset,)} if dataset else {"real": REAL_TRAINING_SET}
        return TrainingRequest.model_validate(
            source
            | {
                "architecture": self.architecture,
                "steps": self.steps,
                "batch_size": self.batch_size,
                "optimizer": "adamw",
                "learning_rate": 2e-3,
                "weight_decay": 0.05,
                "warmup_steps": self.steps // 20,
                "label_smoothing": 0.05,
                # A mirrored 2 or 5 is no digit.
                "flip": False,
                "seed": seed,
            }
        )

    def evaluation(self, training: str) -> EvaluationRequest:
        return EvaluationRequest(training=training, benchmarks=(BENCHMARK,))
