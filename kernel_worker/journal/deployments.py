"""Deployments in the journal: the versions of each app, and what the one in force needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from kernel_worker import records
from kernel_worker.journal.objects import secret_among

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Mapping

    from kernel_worker.journal.objects import Objects
    from kernel_worker.model import Digest

    Frame = bytes | memoryview

KEPT_DEPLOYMENTS = 100
"""How many versions of an app are remembered."""


@dataclass(frozen=True, slots=True)
class Deployed:
    """A version of an app is in force, instead of the one before it, with what it needs."""

    deployment: records.Deployment
    objects: Mapping[Digest, Frame] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Undeployed:
    """No version of the app is in force from `at` (Unix seconds) on."""

    app: str
    at: float


class Deployments:
    """Those of one open file."""

    def __init__(self, db: sqlite3.Connection, objects: Objects) -> None:
        """Keep them in `db`, and what they need among `objects`."""
        self._db = db
        self._objects = objects

    def deploy(self, entry: Deployed) -> None:
        """Put a version in force, or change its settings."""
        deployment = entry.deployment
        body = msgspec.msgpack.encode(deployment)
        known = self._db.execute(
            "UPDATE deployments SET body = ? WHERE app = ? AND version = ? RETURNING id, ended_at",
            (body, deployment.app, deployment.version),
        ).fetchone()
        if known is not None:
            # Other settings, perhaps of a new instance, which has objects of its own. What has
            # taken the version's place meanwhile stays in force.
            key, ended_at = known
            if ended_at is None:
                self._keep_objects(key, entry)
            return
        self.undeploy(deployment.app, deployment.deployed_at)
        (key,) = self._db.execute(
            "INSERT INTO deployments (app, version, body) VALUES (?, ?, ?) RETURNING id",
            (deployment.app, deployment.version, body),
        ).fetchone()
        self._keep_objects(key, entry)
        self._db.execute(
            "DELETE FROM deployments WHERE app = ? AND version <= ?",
            (deployment.app, deployment.version - KEPT_DEPLOYMENTS),
        )

    def _keep_objects(self, key: int, entry: Deployed) -> None:
        """Keep the objects that came with a version that is in force."""
        functions = entry.deployment.functions
        specs = [spec for each in functions for spec in (each.spec, *each.nested)]
        secret = secret_among(entry.objects, specs)
        self._objects.keep("deployment", key, entry.objects, secret)

    def undeploy(self, app: str, at: float) -> None:
        """From `at` on no version of `app` is in force."""
        rows = self._db.execute(
            "UPDATE deployments SET ended_at = ? WHERE app = ? AND ended_at IS NULL RETURNING id",
            (at, app),
        ).fetchall()
        for (key,) in rows:
            self._objects.release("deployment", key)

    def versions(self) -> Iterator[tuple[records.Deployment, float | None]]:
        """Yield all versions of all apps, oldest first, each with when it ended (Unix seconds)."""
        rows = self._db.execute("SELECT body, ended_at FROM deployments ORDER BY app, version")
        for body, ended_at in rows:
            yield msgspec.msgpack.decode(body, type=records.Deployment), ended_at
