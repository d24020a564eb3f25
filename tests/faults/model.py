"""The registered stand-in model, and the words that make a class of it impossible."""

MODEL = "stand-in"
# A class whose name holds one of these words is one that cannot be drawn, or that no process survives.
RAISES, KILLS = "raises", "kills"
BATCH_SECONDS = "FAULTS_BATCH_SECONDS"
REGISTER = [
    {
        "name": MODEL,
        "folder": MODEL,
        "digest": "hub:stand-in@1",
        "licence": "Apache-2.0",
        "image_size": 32,
        "scheduler": "dpm++",
        "steps": 1,
        "seconds_per_image": 0.01,
        "bytes_per_image": 3000,
        "clip_tokenizer": False,
    }
]
