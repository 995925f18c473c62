"""A client over this process's memory, for users' own tests."""

from __future__ import annotations

from ...s3torchconnectorclient._mountpoint_s3_client import MockMountpointS3Client, MountpointS3Client
from .._user_agent import UserAgent
from ._s3client import S3Client
from .s3client_config import S3ClientConfig


class MockS3Client(S3Client):
    """An `S3Client` that has one bucket, in memory of its own, and sends nothing."""

    def __init__(
        self,
        region: str,
        bucket: str,
        user_agent: UserAgent | None = None,
        s3client_config: S3ClientConfig | None = None,
    ) -> None:
        super().__init__(region, user_agent=user_agent, s3client_config=s3client_config)
        config = self.s3client_config
        self._mock_client = MockMountpointS3Client(
            region,
            bucket,
            throughput_target_gbps=config.throughput_target_gbps,
            part_size=config.part_size,
            user_agent_prefix=self.user_agent_prefix,
            unsigned=config.unsigned,
            force_path_style=config.force_path_style,
            max_attempts=config.max_attempts,
        )

    def add_object(self, key: str, data: bytes) -> None:
        """Makes an object, without logging it."""
        self._mock_client.add_object(key, data)

    def remove_object(self, key: str) -> None:
        """Removes an object; a missing one is no error."""
        self._mock_client.remove_object(key)

    def _client_builder(self) -> MountpointS3Client:
        return self._mock_client.create_mocked_client()
