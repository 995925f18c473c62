"""The settings that ship with s3dlio: `default.toml`. Read by `s3dlio.engine.config` only."""
