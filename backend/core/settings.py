"""Where things are and how long they may take: environment variables and defaults, read once."""

from __future__ import annotations

import contextlib
import secrets
from functools import cache
from pathlib import Path
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from backend.core.awake import GAP_SECONDS


def _parts(value: object) -> object:
    """`a, b` → `("a", "b")`: what else holds several names in a shell."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


Listed = BeforeValidator(_parts)
"""Written in the environment with commas; pydantic by itself would ask for JSON there."""


class Settings(BaseSettings):
    """Read from the environment. `STUDIO_X` sets `x`; the names that others share (`DATABASE_URL`) keep their own."""

    model_config = SettingsConfigDict(env_prefix="STUDIO_", frozen=True, extra="ignore", populate_by_name=True)

    home: Path = Field(Path("~/.finetune-studio"), description="The one folder that holds everything.")
    host: str = Field(
        "127.0.0.1", description="Address to listen on. Anything but loopback makes the studio reachable by others."
    )
    port: int = Field(8321, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    hosts: Annotated[tuple[str, ...], NoDecode, Listed] = Field(
        (), description="Names, with commas, by which people reach the studio besides addresses and this machine's own."
    )
    accel_prefix: str = Field(
        "",
        pattern=r"^(/[A-Za-z0-9._-]+)*$",
        description="Where a proxy in front can read the home: single files leave by its X-Accel-Redirect. "
        "Empty: the studio sends them itself.",
    )
    database_url: str = Field(
        "", validation_alias="DATABASE_URL", description="Postgres; empty starts the embedded one."
    )
    redis_url: str = Field(
        "", validation_alias="REDIS_URL", description="Redis or Valkey; empty starts the embedded one."
    )
    storage_url: str = Field(
        "", description="Bucket for data sets; empty keeps them in the home, where checkpoints and artifacts are."
    )
    model_roots: Annotated[tuple[Path, ...], NoDecode, Listed] = Field(
        (), description="Folders, with commas, in which base models may lie besides `home/models`."
    )
    worker_name: str = Field("", description="Name of this worker host, and of no other; empty takes the host's name.")
    devices: str = Field("auto", description="`auto`, `cpu`, or CUDA indices such as `0,1`.")
    share_devices: bool = Field(
        False, description="Whether to start runs on accelerators that programs of others compute on too."
    )

    lease_seconds: float = Field(
        30.0, gt=0, description="A lease that stayed unchanged for this long may be reclaimed."
    )
    renew_seconds: float = Field(5.0, gt=0, description="How often a supervisor renews its leases and looks for work.")
    ship_seconds: float = Field(
        0.05, gt=0, lt=GAP_SECONDS, description="How often a supervisor ships what its trainers wrote."
    )
    spare_seconds: float = Field(
        5.0,
        ge=0,
        description="How long after a trainer got its run the next one is started, to wait with all imported.",
    )
    stop_seconds: float = Field(
        120.0,
        gt=0,
        description="How long a trainer may take until it saves, once told to pause or to end with its host.",
    )
    loading_silence_seconds: float = Field(
        1800.0, gt=0, description="A trainer in which nothing moves for this long while it loads its model is killed."
    )
    preparing_silence_seconds: float = Field(600.0, gt=0, description="The same while it encodes the rows.")
    training_silence_seconds: float = Field(
        600.0, gt=0, description="The same between two batches of training or evaluation, or two tokens of a sample."
    )
    saving_silence_seconds: float = Field(1800.0, gt=0, description="The same while it writes a checkpoint.")
    exporting_silence_seconds: float = Field(
        1800.0, gt=0, description="The same while it merges and proves the result."
    )
    crash_limit: int = Field(
        3, ge=1, description="Trainer deaths in a row without a newer checkpoint that end in `failed`."
    )
    attempt_limit: int = Field(
        10, ge=1, description="Attempts without a newer checkpoint after which a run waits for a person."
    )
    discard_hours: int = Field(24, ge=0, description="How long a discarded run can be brought back.")

    upload_limit_gib: float = Field(64.0, gt=0, description="Largest data set, before and after decompression.")
    inline_mib: int = Field(
        64, ge=0, description="Uploads up to this size answer with the preview, larger ones with an operation."
    )
    session_hours: int = Field(24 * 14, ge=1, description="How long a person stays signed in.")

    @model_validator(mode="after")
    def _renewals_fit_into_a_lease(self) -> Self:
        """Who looks at leases too seldom has not watched them, and would never take over what a dead host held."""
        if self.renew_seconds * 3 > self.lease_seconds:
            raise ValueError("STUDIO_RENEW_SECONDS may be a third of STUDIO_LEASE_SECONDS at most")
        return self

    @property
    def root(self) -> Path:
        return self.home.expanduser().resolve()

    def silence_seconds(self, phase: str) -> float:
        """How long nothing may move in a trainer that is in this phase. One that has told none yet is loading."""
        by_phase = {
            "preparing": self.preparing_silence_seconds,
            "training": self.training_silence_seconds,
            "saving": self.saving_silence_seconds,
            "exporting": self.exporting_silence_seconds,
        }
        return by_phase.get(phase, self.loading_silence_seconds)

    def folder(self, name: str) -> Path:
        """A folder under the home, made on first use: `datasets`, `models`, `uploads`, `logs`, `run`."""
        path = self.root / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def run_folder(self, run_id: object, attempt: int) -> Path:
        """`runs/<id>/attempt-<n>`: everything that one attempt makes lies here."""
        return self.root / "runs" / str(run_id) / f"attempt-{attempt}"

    def place(self) -> str:
        """The name of the storage under the home: hosts that share the folder read the same one. Made on first use."""
        path, name = self.folder("run") / "place", secrets.token_hex(8)
        if not path.exists():
            draft = path.with_name(f".place-{name}")
            draft.write_text(name)
            with contextlib.suppress(FileExistsError):
                path.hardlink_to(draft)  # whole or not at all: others read it at the same moment
            draft.unlink()
        return path.read_text()

    @property
    def all_model_roots(self) -> tuple[Path, ...]:
        return (self.root / "models", *(root.expanduser().resolve() for root in self.model_roots))


@cache
def settings() -> Settings:
    """The settings of this process."""
    return Settings()
