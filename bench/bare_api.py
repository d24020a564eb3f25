"""The least FastAPI application that stores and shows the same rows: no checks, no prompts, no keys of callers.

A job, its first event, its recipe and its class rows go into the product's own tables, with the same values, indexes
and constraints, by SQLAlchemy's plain `insert`.
"""

import os
from datetime import UTC, datetime

import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic import JsonValue
from sqlalchemy import Table, create_engine, insert, select
from sqlalchemy.dialects.postgresql import insert as postgres_insert

from services.prompt_api.accept import plan_dataset
from shared.ids import job_id
from shared.lexicon import load_lexicon
from shared.settings import Settings
from shared.specs import DatasetRequest
from shared.tables import Base

from .requests import FIFTY_TIMES

settings = Settings()
engine = create_engine(settings.sqlalchemy_url.replace("postgresql:", "postgresql+psycopg:"))
tables: dict[str, Table] = dict(Base.metadata.tables)
jobs, events, recipes, classes = (tables[name] for name in ("jobs", "events", "recipes", "dataset_classes"))
# What ours works out for each request is worked out once here.
plan = plan_dataset(DatasetRequest.model_validate(FIFTY_TIMES), settings, load_lexicon(settings.lexicon_path))
spec = plan.spec.model_dump(mode="json")
recipe = {"digest": plan.spec.recipe_digest, "recipe": spec["recipe"], "model": plan.spec.model}
texts = [planned.text.model_dump(mode="json") for planned in plan.classes]
app = FastAPI()


@app.post("/datasets")
def create(body: dict[str, JsonValue]) -> JSONResponse:
    job = job_id("dataset")
    now = datetime.now(UTC)
    row = {"id": job, "kind": "dataset", "team_id": "default", "state": "queued", "spec": spec}
    rows = [
        {
            "job_id": job,
            "position": position,
            "class_id": planned.text.id,
            "class_key": planned.key,
            "text": text,
            "total": planned.total,
        }
        for position, (planned, text) in enumerate(zip(plan.classes, texts, strict=True))
    ]
    with engine.begin() as connection:
        connection.execute(postgres_insert(recipes).values(recipe).on_conflict_do_nothing())
        connection.execute(insert(jobs), {**row, "total": plan.spec.total_images, "created_at": now})
        connection.execute(insert(events), {"job_id": job, "type": "state", "payload": {"state": "queued"}, "at": now})
        connection.execute(insert(classes), rows)
    return JSONResponse({"id": job}, 202, {"Location": f"/jobs/{job}"})


@app.get("/jobs/{job}")
def show(job: str) -> dict[str, JsonValue]:
    shown = [jobs.c[name] for name in ("id", "state", "total", "done", "spec")]
    with engine.connect() as connection:
        return dict(connection.execute(select(*shown).where(jobs.c.id == job)).one()._mapping)


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ["SYNTHCLONE_API_PORT"]), log_level="warning", access_log=False)
