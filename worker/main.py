"""The Celery application of a worker host. Its one task passes a hint on to the host's supervisor and returns."""

from __future__ import annotations

import socket

from backend.core.queue import POKE, celery_app
from backend.core.settings import settings
from worker.supervisor import poke

app = celery_app(settings().redis_url)


@app.task(name=POKE)  # type: ignore[untyped-decorator]
def hint(_subject: str) -> None:
    """There may be work. A hint that is lost, late or repeated changes nothing: supervisors look by themselves, too."""
    poke(settings(), settings().worker_name or socket.gethostname())
