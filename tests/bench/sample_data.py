"""Sample data for the benchmarks: invented people, their friendships and requests, the same every time."""

import itertools
import random
from datetime import UTC, datetime, timedelta

import psycopg

from noxchat.database import without_statement_timeout
from noxchat.search import create_trigram_index, make_search_text, trigram_index_name

FIRST_NAMES = """Anna Maria Nika Mila Ines Leo Sorin Anika Dasha Ada Boris Clara Dmitri Elena Felix Greta Hugo Irina Jonas Katya
Luca Marta Nils Olga Pavel Quinn Rosa Stefan Tanya Ursula Viktor Wanda Xenia Yuri Zoe Aaron Bella Carlos Diana Emil Fatima
Gustav Hanna Ivan Julia Karim Lena Mehmet Nadia Oscar Petra Rafael Sofia Tomas Uma Vera Willem Yasmin Zdenka José Élodie
Łukasz Søren Zoë Núria Алёна Борис Вера Глеб Дарья Егор Жанна Захар Ирина Кирилл Лада Максим Надя Олег Полина Руслан Соня
Тихон Ульяна Фёдор Эмма Юлия Яна Артём Светлана Николай Екатерина Александр Дмитрий Татьяна Михаил""".split()
LAST_NAMES = """Novak Schmidt Garcia Rossi Silva Kowalski Andersson Jensen Müller Dubois Ivanov Petrov Nguyen Kim Tanaka Okafor
Haddad Cohen Murphy O'Neil MacLeod Fernández Papadopoulos Horvat Popescu Yilmaz Kaya Virtanen Nieminen Bakker deVries Lefebvre
Moreau Weber Fischer Hofmann Zimmermann Costa Santos Oliveira Marino Greco Lombardi Nowak Zielinski Wojcik Svoboda Dvorak
Иванова Петров Сидорова Кузнецов Смирнова Попов Васильева Соколов Михайлова Новиков Фёдорова Морозов Волкова Алексеев
Лебедева Семёнов Егорова Павлов Козлова Степанов Николаева Орлов Андреева Макаров Никитина Захаров""".split()
# One person in ten has a name without a space.
FAMILY_NAMES = "王 李 张 刘 陈 杨 赵 黄 周 吴 田中 佐藤 鈴木 高橋 김 이 박 최 정 สม วิ ประ".split()
GIVEN_NAMES = """小明 伟 芳 娜 秀英 敏 静 丽 强 磊 军 洋 勇 艳 杰 娟 涛 明 超 霞 さくら 太郎 花子 健一 美咲 민수 지우 서연 하준 수아
지훈 ชาย หญิง พร ศักดิ์ ชัย""".split()
ID_CHARACTERS = "bcdfghjkmnpqrstvwxz23456789"
JOINED_AT = datetime(2025, 1, 1, tzinfo=UTC)
RARE = "Zebulon Quixworthy"  # one person, near the end of the order of names
RARE_UNSPACED = "田中龘龘"  # one person


def people(count: int):
    """Yield number, name, Public ID and search text of each person."""
    rng = random.Random(1969)
    for number in range(1, count + 1):
        first, last = rng.choice(FIRST_NAMES), rng.choice(LAST_NAMES)
        name = f"{first} {last} {number:x}" if number % 2 else f"{first}_{last}{number}"[:32]
        if number % 3:
            public_id = "nox-" + "".join(rng.choices(ID_CHARACTERS, k=6)) + f"{number:x}"
        else:
            public_id = f"{first}_{number}" if first.isascii() else f"user_{number}"
        if number % 10 == 7:
            name = f"{rng.choice(FAMILY_NAMES)}{rng.choice(GIVEN_NAMES)} {number:x}"
        if number == count // 10 * 10 - 3:
            name = RARE_UNSPACED
        if number == count:
            name, public_id = RARE, "zebulon_q"
        yield number, name, public_id, make_search_text(name, public_id)


def friendships(count: int, hub: int):
    """Yield pairs of friends, the smaller number first: person 1 has `hub` friends, 3 has 30, the others have a few."""
    for other in range(2, hub + 2):
        yield 1, other
    for other in range(hub + 100, hub + 130):
        yield 3, other
    rng = random.Random(7)
    for number in range(2, count - 30, 3):
        for other in {number + rng.randint(1, 30) for _ in range(4)}:
            yield number, other


COLUMNS = {
    "users": "id username username_key email email_key password_hash theme created_at last_seen_at search_text",
    "public_ids": "key user_id",
    "profiles": "user_id public_id public_id_key bio",
    "friends": "user_id friend_id since search_text",
    "friend_requests": "sender_id receiver_id created_at",
}


def rows(count: int, hub: int, requests: int):
    """Yield the name of each table with its rows, in an order that satisfies the foreign keys.

    hub, requests: how many friends and incoming requests person 1 has.
    """
    yield (
        "users",
        (
            (
                n,
                name,
                f"k{n}",
                f"p{n}@nox.example",
                f"p{n}@nox.example",
                "!",
                "auto",
                JOINED_AT,
                JOINED_AT + timedelta(seconds=n),
                text,
            )
            for n, name, _id, text in people(count)
        ),
    )
    yield "public_ids", ((public_id.lower(), n) for n, _name, public_id, _text in people(count))
    yield (
        "profiles",
        (
            (n, public_id, public_id.lower(), "Reads the last page first.")
            for n, _name, public_id, _text in people(count)
        ),
    )
    texts = [""] + [text for _number, _name, _id, text in people(count)]
    both_directions = ((pair, pair[::-1]) for pair in friendships(count, hub))
    yield "friends", ((*pair, JOINED_AT, texts[pair[1]]) for pair in itertools.chain.from_iterable(both_directions))
    yield "friend_requests", ((count - n, 1, JOINED_AT + timedelta(seconds=n)) for n in range(requests))


def fill_postgres(uri: str, count: int, hub: int = 20, requests: int = 20):
    """Fill an empty, migrated PostgreSQL database."""
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute(f"DROP INDEX IF EXISTS {trigram_index_name('users')}")
        for table, values in rows(count, hub, requests):
            columns = COLUMNS[table].replace(" ", ", ")
            with connection.cursor().copy(f"COPY {table} ({columns}) FROM STDIN") as copy:
                for row in values:
                    copy.write_row(row)
        connection.execute("SELECT setval('users_id_seq', %s)", [count])


def fill_sqlite(engine, count: int, hub: int = 20, requests: int = 20):
    """Fill an empty, migrated SQLite database."""
    with engine.begin() as connection:
        for table, values in rows(count, hub, requests):
            names = COLUMNS[table].split()
            statement = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
            converted = (
                tuple(
                    str(value.replace(tzinfo=None)) + ".000000" if isinstance(value, datetime) else value
                    for value in row
                )
                for row in values
            )
            while batch := list(itertools.islice(converted, 10_000)):
                connection.exec_driver_sql(statement, batch)


def create_index_and_analyze(engine):
    """Create the trigram index, without which loading is faster, and update the planner's statistics."""
    with engine.begin() as connection, without_statement_timeout(connection):
        problem = create_trigram_index(connection, "users")
        assert not problem, problem
    with (
        engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
        without_statement_timeout(connection),
    ):
        connection.exec_driver_sql("VACUUM ANALYZE" if engine.dialect.name == "postgresql" else "ANALYZE")
