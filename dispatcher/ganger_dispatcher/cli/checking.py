"""The verb ``doctor``."""

import asyncio
import os

import typer

from ganger_broker.errors import InvalidSetting
from ganger_broker.logs import configure_logging
from ganger_broker.settings import Settings, flag_name, misspelt
from ganger_broker.urls import without_password
from ganger_dispatcher.doctor import Finding, Status, examine

from .options import AsJson, BrokerUrl, Prefix, RedisUrl
from .printing import print_json, say

__all__ = ["doctor"]

_MARKS = {Status.OK: "✓", Status.WARNING: "!", Status.WRONG: "✗"}


def doctor(
    as_json: AsJson = False,
    broker_url: BrokerUrl = None,
    redis_url: RedisUrl = None,
    prefix: Prefix = None,
) -> None:
    """Check settings, RabbitMQ, Redis, leader and workers: a line each, and what to do.

    ✓ is well, ! works but should be looked at, ✗ is wrong: then the exit status is 1.
    Nothing is changed.
    """
    findings = _findings(broker_url, redis_url, prefix)
    if as_json:
        print_json(findings)
    else:
        for finding in findings:
            say(_line(finding))
    if any(finding.status is Status.WRONG for finding in findings):
        raise typer.Exit(1)


def _findings(broker_url: str | None, redis_url: str | None, prefix: str | None) -> list[Finding]:
    try:
        settings = Settings.load(
            flag_name, broker_url=broker_url, redis_url=redis_url, prefix=prefix
        )
    except InvalidSetting as exc:
        return [Finding("settings", Status.WRONG, str(exc))]
    broker, redis = without_password(settings.broker_url), without_password(settings.redis_url)
    found = f"{broker}, {redis}, prefix {settings.prefix}"
    if settings.embedded:
        advice = "all of it is inside the process that opened it; there is nothing to check here"
        return [Finding("settings", Status.WARNING, found, advice)]
    configure_logging(settings)
    return [_of_names(found), *asyncio.run(examine(settings))]


def _of_names(found: str) -> Finding:
    meant = [f"{name}: did you mean {known}?" for name, known in misspelt(os.environ).items()]
    if not meant:
        return Finding("settings", Status.OK, found)
    return Finding("settings", Status.WARNING, found, "no setting: " + "; ".join(meant))


def _line(finding: Finding) -> str:
    line = f"{_MARKS[finding.status]} {finding.check:<12}  {finding.found}"
    return f"{line}\n{'':16}{finding.to_do}" if finding.to_do else line
