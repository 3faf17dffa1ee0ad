"""How far the raters agree, live: what the owner's page shows."""

from __future__ import annotations

import json
import statistics
import time
from collections import defaultdict
from typing import Any

from ..statistics import agreement
from .store import Store, pseudonym

_LISTED = 200  # items with votes on both sides


def votes_by_item(store: Store, kind: str = "edit") -> dict[str, dict[int, dict[str, Any]]]:
    """row id -> rater's id -> {value, note, at, ms} of the votes that hold, in rater order."""
    found: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    with store.read() as sql:
        for row in sql.execute(
            "SELECT row_id, rater, value, note, at, ms FROM vote JOIN item ON item.id = item "
            "WHERE undone = 0 AND value IS NOT NULL AND kind = ? ORDER BY item, rater",
            (kind,),
        ):
            kept = {name: row[name] for name in ("note", "at", "ms")}
            found[row["row_id"]][row["rater"]] = {"value": bool(row["value"]), **kept}
    return dict(found)


def summary(store: Store, now: float | None = None) -> dict[str, Any]:
    """Progress, each rater, agreement, and what is disputed. Raises RecordError."""
    now = time.time() if now is None else now
    votes = votes_by_item(store)
    with store.read() as sql:
        total, done = sql.execute(
            "SELECT count(*), coalesce(sum(votes >= wanted), 0) FROM item WHERE kind = 'edit'"
        ).fetchone()
        (hour,) = sql.execute(
            "SELECT count(*) FROM vote WHERE undone = 0 AND value IS NOT NULL AND at > ?", (now - 3600,)
        ).fetchone()
        (lessons,) = sql.execute("SELECT count(*) FROM item WHERE kind = 'training'").fetchone()
        people = [
            _rater(sql, row, lessons > 0) for row in sql.execute("SELECT * FROM rater WHERE role = 'rater'")
        ]
        disputed = [
            {"row": row, "yes": yes, "no": len(given) - yes, "instruction": _instruction(sql, row)}
            for row, given in votes.items()
            if 0 < (yes := sum(each["value"] for each in given.values())) < len(given)
        ][:_LISTED]
    times = [each["ms"] for given in votes.values() for each in given.values()]
    agreed = agreement(
        [(pseudonym(rater), each["value"]) for rater, each in given.items()] for given in votes.values()
    )
    return {
        "items": total,
        "complete": done,
        "votes": len(times),
        "hour": hour,
        "seconds": statistics.median(times) / 1000 if times else None,
        "raters": people,
        "agreement": None
        if agreed is None
        else {
            "items": agreed.items,
            "percent": agreed.percent,
            "alpha": agreed.alpha,
            "fleiss": agreed.fleiss,
            "complete": agreed.complete,
            "raters": agreed.raters,
            "cohen": [
                {"raters": list(pair), "kappa": kappa, "items": n}
                for pair, (kappa, n) in agreed.cohen.items()
            ],
        },
        "disputed": disputed,
    }


def _rater(sql: Any, row: Any, lessons: bool) -> dict[str, Any]:
    given = sql.execute(
        "SELECT value, ms, at, kind, gold FROM vote JOIN item ON item.id = item "
        "WHERE rater = ? AND undone = 0 AND value IS NOT NULL",
        (row["id"],),
    ).fetchall()
    gold = [each["value"] == each["gold"] for each in given if each["kind"] == "gold"]
    return {
        "name": row["name"],
        "pseudonym": pseudonym(row["id"]),
        "revoked": row["token"] is None,
        "trained": bool(row["trained"]) or not lessons,
        "votes": len(given),
        "yes": sum(each["value"] for each in given) / len(given) if given else None,
        "seconds": statistics.median(each["ms"] for each in given) / 1000 if given else None,
        "gold": len(gold),
        "gold_right": sum(gold) / len(gold) if gold else None,
        "last": max((each["at"] for each in given), default=None),
    }


def _instruction(sql: Any, row_id: str) -> str:
    (view,) = sql.execute("SELECT view FROM item WHERE row_id = ?", (row_id,)).fetchone()
    return str(json.loads(view)["instruction"])
