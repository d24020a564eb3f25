"""The least FastAPI application that stores and shows the same rows: no checks, no prompts, no events."""

import os
import uuid

import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic import JsonValue
from sqlalchemy import JSON, Column, Integer, MetaData, String, Table, create_engine, insert, select

from shared.classes import resolve_classes
from shared.lexicon import load_lexicon
from shared.settings import Settings

metadata = MetaData()
jobs = Table(
    "bare_jobs", metadata, Column("id", String, primary_key=True), Column("spec", JSON), Column("total", Integer)
)
classes = Table(
    "bare_classes",
    metadata,
    Column("job_id", String, primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("class_id", String),
    Column("class_key", String),
    Column("text", JSON),
    Column("total", Integer),
)
settings = Settings()
engine = create_engine(settings.sqlalchemy_url.replace("postgresql:", "postgresql+psycopg:"))
texts = [text.model_dump(mode="json") for text in resolve_classes("in1k", load_lexicon(settings.lexicon_path))]
app = FastAPI()


@app.post("/datasets")
def create(body: dict[str, JsonValue]) -> JSONResponse:
    job_id = uuid.uuid4().hex
    rows = [
        {
            "job_id": job_id,
            "position": position,
            "class_id": text["id"],
            "class_key": f"{text['id']}-0123456789ab",
            "text": text,
            "total": 65_000,
        }
        for position, text in enumerate(texts)
    ]
    with engine.begin() as connection:
        connection.execute(insert(jobs), {"id": job_id, "spec": body, "total": len(rows)})
        connection.execute(insert(classes), rows)
    return JSONResponse({"id": job_id}, 202, {"Location": f"/jobs/{job_id}"})


@app.get("/jobs/{job_id}")
def show(job_id: str) -> dict[str, JsonValue]:
    with engine.connect() as connection:
        return dict(connection.execute(select(jobs).where(jobs.c.id == job_id)).one()._mapping)


if __name__ == "__main__":
    metadata.create_all(engine)
    uvicorn.run(app, port=int(os.environ["SYNTHCLONE_API_PORT"]), log_level="warning", access_log=False)
