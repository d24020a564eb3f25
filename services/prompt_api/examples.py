"""Examples in the API's description, each checked against its schema by a test."""

from pathlib import Path

from fastapi.openapi.models import Example
from pydantic import JsonValue, TypeAdapter

# What the service answered while it drew, trained and tested; by operation and status, with its long lists cut.
RECORDED = TypeAdapter(dict[str, dict[str, JsonValue]]).validate_json(
    (Path(__file__).parent / "answers.json").read_bytes()
)

DATASET_ID = "ds-01k9zt2v6m8q4r5s7w9x0y1a2b"
TRAINING_ID = "tr-01k9zt3a1b2c3d4e5f6g7h8j9k"
EVALUATION_ID = "ev-01k9zt4p5q6r7s8t9v0w1x2y3z"

DATASETS: dict[str, Example] = {
    "description": {
        "summary": "Class descriptions, weak guidance",
        "value": {"classes": "digits", "prompt": "description", "scale": 2, "images_per_class": 32},
    },
    "name": {"summary": "Class names", "value": {"classes": "digits", "prompt": "name", "size": "1x"}},
    "hypernym": {
        "summary": "Class names with their parent classes",
        "value": {"classes": ["n02012849", "n03126707"], "prompt": "hypernym", "model": "sd14", "images_per_class": 10},
    },
    "background": {
        "summary": "Varied backgrounds, ten times ImageNet-100",
        "value": {"classes": "in100", "prompt": "background", "size": "10x", "model": "sd14"},
    },
    "approximated": {
        "summary": "Sooner and differently: guidance in the middle, deep features of one in three evaluations",
        "value": {
            "classes": "digits",
            "scale": 2,
            "images_per_class": 32,
            "approximation": {"guidance_interval": [0.2, 0.8], "reuse_every": 3},
        },
    },
    "own classes": {
        "summary": "Classes and wording of your own",
        "value": {
            "classes": [
                {"name": "flat tyre", "description": "a car tyre without air"},
                {"name": "sound tyre", "description": "a car tyre full of air"},
            ],
            "prompt": {"template": "a photo of a {name}, {description}"},
            "images_per_class": 100,
            "model": "sd14",
        },
    },
}
TRAININGS: dict[str, Example] = {
    "synthetic": {
        "summary": "On a dataset, which need not be finished",
        "value": {"datasets": [DATASET_ID], "architecture": "resnet18", "steps": 1000},
    },
    "real": {
        "summary": "On real images, as the bar to compare with",
        "value": {"real": "digits-train", "architecture": "resnet18", "steps": 1000, "flip": False},
    },
}
EVALUATIONS: dict[str, Example] = {
    "digits": {
        "summary": "On the real test images of the digits",
        "value": {"training": TRAINING_ID, "benchmarks": ["digits"]},
    },
    "compared": {
        "summary": "Beside another network on the same images: is one better than the other?",
        "value": {"training": TRAINING_ID, "benchmarks": ["digits"], "compare_with": [EVALUATION_ID]},
    },
    "distances": {
        "summary": "How near a dataset's images are to real ones, in this network's features",
        "value": {
            "training": TRAINING_ID,
            "distances": [{"dataset": DATASET_ID, "real": "digits-train", "images": 320}],
        },
    },
}
EXPERIMENTS: dict[str, Example] = {
    "digits": {
        "summary": "Two prompts by two guidance scales, beside real digits",
        "value": {
            "name": "digits: prompts",
            "classes": "digits",
            "grids": [{"prompts": ["name", "description"], "scales": [2, 7.5], "images_per_class": [32]}],
            "real": ["digits-train"],
            "training": {"architecture": "test_resnet", "steps": 300, "flip": False},
            "seeds": [0, 1, 2],
            "benchmarks": ["digits"],
            "budget": 2000,
        },
    }
}
PROBES: dict[str, Example] = {
    "digits": {
        "summary": "What the first tenth of a dataset says of all of it",
        "value": {"dataset": DATASET_ID, "benchmark": "digits", "shares": [0.01, 0.05, 0.1], "repeats": 3},
    }
}
PREVIEWS: dict[str, Example] = {
    "background": {
        "summary": "Five prompts of each class",
        "value": {"classes": "in100", "prompt": "background", "model": "sd14", "slots": 5},
    }
}

QUEUED_DATASET: JsonValue = {
    "id": DATASET_ID,
    "kind": "dataset",
    "state": "queued",
    "terminal": False,
    "summary": "10 classes, 320 images in all, class description prompts, guidance scale 2.0, model digits-sd",
    "cancel_requested": False,
    "progress": 0.0,
    "counts": {"total": 320, "done": 0, "rejected": 0, "failed": 0, "reused": 0},
    "classes": {"total": 10, "done": 0},
    "guidance": 2.0,
    "images_per_class": 32,
    "model": "digits-sd",
    "cost": {"drawn_images": 0, "worker_seconds": 0.0, "stored_bytes": 0},
    "created_at": "2026-11-22T09:00:00Z",
    "links": {
        "self": f"/jobs/{DATASET_ID}",
        "events": f"/jobs/{DATASET_ID}/events",
        "dataset": f"/datasets/{DATASET_ID}",
        "classes": f"/jobs/{DATASET_ID}/classes",
        "cancel": f"/jobs/{DATASET_ID}/cancel",
    },
}
FAILED_TRAINING: JsonValue = {
    "id": TRAINING_ID,
    "kind": "training",
    "state": "failed",
    "terminal": True,
    "summary": f"resnet18 for 1000 steps on {DATASET_ID}",
    "cancel_requested": False,
    "progress": 0.0,
    "counts": {"total": 1000, "done": 0, "rejected": 0, "failed": 0, "reused": 0},
    "error": {
        "type": "urn:synthclone:problem:parent-failed",
        "detail": f"{DATASET_ID} ended cancelled, so {TRAINING_ID} cannot run; "
        "submit it again on a dataset that succeeded",
        "retryable": False,
    },
    "cost": {"drawn_images": 0, "worker_seconds": 0.0, "stored_bytes": 0},
    "created_at": "2026-11-22T09:00:01Z",
    "finished_at": "2026-11-22T09:05:00Z",
    "links": {
        "self": f"/jobs/{TRAINING_ID}",
        "events": f"/jobs/{TRAINING_ID}/events",
        "training": f"/trainings/{TRAINING_ID}",
        "retry": f"/jobs/{TRAINING_ID}/retry",
    },
}
JOBS: JsonValue = {
    "a queued dataset": {"value": QUEUED_DATASET},
    "a failed training": {"value": FAILED_TRAINING},
}
REFUSED: JsonValue = {
    "type": "urn:synthclone:problem:rejected",
    "title": "The request cannot be carried out",
    "status": 422,
    "detail": "unknown class list 'in101'; known: in1k, in100, digits",
    "instance": "/datasets",
    "errors": [{"pointer": "/classes", "detail": "unknown class list 'in101'; known: in1k, in100, digits"}],
}
