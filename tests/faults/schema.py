"""The schema changes while work goes on: a newer version adds to it, and is taken back."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from shared.schema import MIGRATIONS

from .scene import Fault, Scene

REVISION = '''"""Only for this run."""

import sqlalchemy as sa
from alembic import op

revision = "test_only"
down_revision = "{head}"


def upgrade() -> None:
    op.add_column("shards", sa.Column("note", sa.String(), nullable=True))
    op.create_index("ix_shards_note", "shards", ["note"])


def downgrade() -> None:
    op.drop_index("ix_shards_note", "shards")
    op.drop_column("shards", "note")
'''


def migrate_during_run(scene: Scene) -> None:
    folder = scene.cluster.orchestrator.folder / "versions"
    folder.mkdir(exist_ok=True)
    head = ScriptDirectory(str(MIGRATIONS)).get_current_head()
    (folder / "test_only.py").write_text(REVISION.format(head=head))
    for _ in range(2):
        scene.draw_on(16)
        change(scene, folder, up=True)
        scene.draw_on(16)
        change(scene, folder, up=False)
        scene.blow()


def change(scene: Scene, folder: Path, *, up: bool) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", f"{MIGRATIONS / 'versions'}\n{folder}")
    with scene.cluster.database.engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL lock_timeout = '20s'")
        config.attributes["connection"] = connection
        if up:
            command.upgrade(config, "head")
        else:
            command.downgrade(config, "-1")


FAULTS = (Fault("the schema changed up and down", migrate_during_run, images_per_class=96),)
