import psycopg2
import redis


def test_the_throwaway_postgres_lets_its_user_create_databases(postgres_url: str) -> None:
    connection = psycopg2.connect(postgres_url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE scratch")
        cursor.execute("SHOW fsync")
        assert cursor.fetchone() == ("off",)
        cursor.execute("DROP DATABASE scratch")
    connection.close()


def test_the_throwaway_valkey_takes_and_returns_a_value(valkey_url: str) -> None:
    with redis.Redis.from_url(valkey_url) as client:
        client.set("scratch", "kept")
        assert client.getdel("scratch") == b"kept"
