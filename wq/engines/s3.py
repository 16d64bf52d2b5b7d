"""An S3 server: versitygw over a folder."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mesh.errors import SetupError
from wq.engines.engine import NotAnswering, read_version, write_version
from wq.engines.ports import HOST
from wq.engines.processes import Process, end, spawn
from wq.engines.programs import find_gateway

BUCKET = "water"
REGION = "us-east-1"
ACCESS_KEY = "wq"
_PROBE_S = 3
_END_S = 20.0


@dataclass(slots=True)
class S3Server:
    """The S3 server of the set, with one bucket."""

    folder: Path
    secret: str = field(repr=False)
    ports: dict[str, int]
    name: str = "s3"

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.ports[self.name]}"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def launch(self) -> list[Process]:
        program, version = find_gateway()
        for folder in (self.folder, self.folder / "data", self.folder / "sidecar"):
            folder.mkdir(mode=0o700, exist_ok=True)
        write_version(self.folder, version)
        command = [program, "--quiet", "--keep-alive", "--region", REGION, "--port", f"{HOST}:{self.ports[self.name]}"]
        command += ["posix", "--sidecar", str(self.folder / "sidecar"), str(self.folder / "data")]
        secret = {"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": self.secret}
        return [spawn(command, self.folder, self.log, secret)]

    def probe(self) -> str:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            self._client().list_buckets()
        except (BotoCoreError, ClientError) as error:
            raise NotAnswering(str(error)) from None
        return f"versitygw {read_version(self.folder)}"

    def furnish(self) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        client = self._client()
        try:
            if BUCKET not in {found["Name"] for found in client.list_buckets()["Buckets"]}:
                client.create_bucket(Bucket=BUCKET)
        except (BotoCoreError, ClientError) as error:
            raise SetupError(f"the bucket {BUCKET} cannot be made at {self.address}: {error}") from error

    def end(self, processes: list[Process]) -> None:
        end(processes, _END_S)

    def _client(self) -> Any:
        import boto3  # takes a tenth of a second, which other commands need not wait for
        from botocore.config import Config

        settings = Config(
            connect_timeout=_PROBE_S, read_timeout=_PROBE_S, retries={"max_attempts": 1}, s3={"addressing_style": "path"}
        )
        return boto3.client(
            "s3",
            endpoint_url=self.address,
            region_name=REGION,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=self.secret,
            config=settings,
        )
