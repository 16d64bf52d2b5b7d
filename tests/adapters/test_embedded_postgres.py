"""The embedded PostgreSQL: made, adopted, restarted after a kill, and clear words for everything that can be wrong."""

import psycopg

from mesh.adapters.embedded_postgres import EmbeddedPostgres


async def test_making_a_database_twice_is_one_database(postgres_server: EmbeddedPostgres) -> None:
    await postgres_server.create_database("twice")
    await postgres_server.create_database("twice")
    async with await psycopg.AsyncConnection.connect(postgres_server.dsn("twice")) as connection:
        row = await (await connection.execute("SELECT current_database()")).fetchone()
    assert row == ("twice",)
