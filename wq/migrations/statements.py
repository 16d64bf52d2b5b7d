"""Several statements of SQL in one text, for revisions."""

from sqlalchemy import Connection


def execute_all(connection: Connection, statements: str) -> None:
    """Each statement in turn; they are parted by a semicolon at the end of a line."""
    for statement in statements.split(";\n"):
        if statement.strip():
            connection.exec_driver_sql(statement)
