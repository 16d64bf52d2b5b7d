"""Where is a database of a deployment on real engines?"""

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from mesh.errors import SetupError
from mesh.settings import Settings


def database_url(settings: Settings, address: str) -> str:
    """For SQLAlchemy: the catalog (empty address), a database beside it (its name), or postgresql://HOST:PORT/DATABASE, each
    with the user and password of the catalog. Holds the password: never log it. Raises SetupError."""
    try:
        catalog = make_url(settings.catalog_url.get_secret_value()).set(drivername="postgresql+psycopg")
        if not address:
            found = catalog
        elif "://" not in address:
            found = catalog.set(database=address)
        else:
            there = make_url(address)
            found = catalog.set(host=there.host, port=there.port, database=there.database)
    except (ArgumentError, ValueError):
        raise SetupError("catalog_url or a shard's address is no postgresql://USER:PASSWORD@HOST:PORT/DATABASE") from None
    return found.render_as_string(hide_password=False)
