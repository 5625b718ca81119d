"""Demo data for an empty database: people with drawn pictures, friendships, open requests and conversations."""

import math
import os
import random
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from io import BytesIO
from pathlib import Path

from flask import current_app
from sqlalchemy import Table, exists, insert, select

from noxchat import avatars, demo_conversations, email_addresses, passwords
from noxchat.database import begin_write, now
from noxchat.extensions import db
from noxchat.models import Profile, PublicId, User, friend_requests, friends
from noxchat.names import skeleton

NAMES = """
Mila Nika Timur Ines Orson Leo Sorin Anika Dasha Veniamin Ada Boris Clara Dmitri Elena Felix Greta Hugo Irina Jonas
Katya Luca Marta Nils Olga Pavel Quinn Rosa Stefan Tanya Ursula Viktor Wanda Xenia Yuri Zoe
Алёна Борис_К Вера Глеб Дарья Егор Жанна Захар Ирина_Л Кирилл Лада Максим Надя Олег Полина Руслан Соня Тихон Ульяна
Фёдор Эмма Юлия_В Яна Артём
""".split()
LATIN_LETTERS = "a b v g d e e zh z i y k l m n o p r s t u f h ts ch sh sch _ y _ e yu ya".split()
LATIN = dict(zip("абвгдеёжзийклмнопрстуфхцчшщъыьэюя", LATIN_LETTERS, strict=True))
BIOS = [
    "Amateur astronomer, professional insomniac. I reply after ten.",
    "Chasing meteor showers from the rooftops. Ask me about lenses, not about mornings.",
    "Bread, bicycles, bad puns.",
    "Reads the last page first.",
    "Two cats, one balcony, many tomatoes.",
    "Plays the cello when the neighbours are out.",
    "Maps, trains and timetables.",
    "Learning to bake. Send recipes.",
    "Поздний ужин и ранние поезда.",
    "Пишу письма от руки. Отвечаю ночью.",
    "Чай, шахматы и звёзды над дачей.",
    "Фотографирую туман. Иногда получается.",
    "Учу испанский, третий год подряд.",
    "Собираю грибы и старые карты.",
    "",
]
DEMO_EMAIL = "mila@demo.example"


@dataclass(frozen=True)
class Login:
    identifier: str
    password: str


def _password_file() -> Path:
    return current_app.config["DATA_DIR"] / "demo-password"


def login() -> Login | None:
    """Return the demo login if it still exists."""
    if not _password_file().is_file() or email_addresses.find_holder(DEMO_EMAIL) is None:
        return None
    return Login(DEMO_EMAIL, _password_file().read_text().strip())


def fill(count: int = 60) -> Login | None:
    """Fill an empty database with people, the first of whom can log in with a random password. Commits.

    count: how many people, 2 to 60.
    Returns the login, or None when there are accounts already.
    """
    if db.session.scalar(select(exists().where(User.id.is_not(None)))):
        return None
    chance = random.Random(1969)
    password = "-".join(secrets.choice(["moon", "owl", "star", "tide", "pine", "lamp", "moth", "fern"]) for _ in "abc")
    password += f"-{secrets.randbelow(9000) + 1000}"
    begin_write(db.session)
    people = [_create_person(name, chance) for name in NAMES[: max(2, min(count, len(NAMES)))]]
    people[0].password_hash = passwords.hash_password(password)
    people[0].email = people[0].email_key = DEMO_EMAIL
    db.session.flush()
    _create_relations(people, chance)
    demo_conversations.fill(people[0], chance)
    for person in people:
        if chance.random() < 0.8:
            avatars.update(person, person.public_id, draw(chance))
    db.session.commit()
    with open(os.open(_password_file(), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(password)
    return Login(DEMO_EMAIL, password)


def _create_person(name: str, chance: random.Random) -> User:
    key = "".join(LATIN.get(char, char) for char in name.lower())
    email = f"{key}@demo.example"
    user = User(
        username=name,
        username_key=skeleton(name),
        email=email,
        email_key=email,
        email_confirmed_at=now(),
        password_hash="!",  # nobody can log in to these accounts
        created_at=now() - timedelta(days=chance.randint(3, 900)),
        last_seen_at=now() - timedelta(minutes=chance.choice([1, 2, 3, 30, 200, 1500, 4000, 20000])),
    )
    public_id = key if len(key) >= 3 else f"{key}_{chance.randint(10, 99)}"
    db.session.add(user)
    db.session.flush()
    db.session.add(PublicId(key=public_id, user_id=user.id))
    db.session.flush()
    db.session.add(Profile(user=user, public_id=public_id, public_id_key=public_id, bio=chance.choice(BIOS)))
    db.session.flush()
    return user


def _create_relations(people: list[User], chance: random.Random):
    """Make random friendships and requests; the first person has three requests to answer, and two that wait."""
    first, pairs = people[0].id, _random_pairs(people, chance)
    times = {pair: now() - timedelta(hours=chance.randint(1, 2000)) for pair in pairs}
    own = [pair for pair in pairs if first in pair][:5]
    others = [pair for pair in pairs if first not in pair][:: max(2, len(pairs) // 40)]
    received = [*own[:3], *(pair for pair in others if chance.random() < 0.5)]
    sent = {*own, *others} - set(received)
    friendships = set(pairs) - {*own, *others}
    _insert(friends, ("user_id", "friend_id", "since"), friendships, times)
    _insert(friends, ("friend_id", "user_id", "since"), friendships, times)
    _insert(friend_requests, ("sender_id", "receiver_id", "created_at"), sent, times)
    _insert(friend_requests, ("receiver_id", "sender_id", "created_at"), received, times)


def _random_pairs(people: list[User], chance: random.Random) -> list[tuple[int, int]]:
    """Return pairs of ids, the lower one first: up to 19 with the first person, and up to 6 for each other one."""
    pairs = set()
    for person in people:
        for other in chance.sample(people, k=min(len(people), 20 if person is people[0] else 7)):
            if other is not person:
                pairs.add((min(person.id, other.id), max(person.id, other.id)))
    return sorted(pairs)


def _insert(table: Table, columns: tuple[str, str, str], pairs: Collection[tuple[int, int]], times: dict):
    """Insert a row for each pair. columns: those for its first and its second id, and for its time."""
    if pairs:
        rows = [dict(zip(columns, (*pair, times[pair]), strict=True)) for pair in pairs]
        db.session.execute(insert(table), rows)


def draw(chance: random.Random, side: int = 256) -> bytes:
    """Return a randomly drawn night sky with moon, stars and hills, as WebP. side: in pixels."""
    from PIL import Image, ImageDraw  # takes 5 MB, so only when it is needed

    hue = chance.random()

    def colour(light: float, shift: float = 0.0) -> tuple[int, ...]:
        turn = (hue + shift) * 2 * math.pi
        return tuple(round(255 * light * (0.72 + 0.28 * math.cos(turn + part * 2.1))) for part in range(3))

    big = side * 2  # drawn at double size, since Pillow does not smooth the edges of shapes
    image = Image.new("RGB", (big, big))
    pen = ImageDraw.Draw(image)
    for y in range(big):
        pen.line([(0, y), (big, y)], fill=colour(0.2 + 0.35 * y / big, 0.1 * y / big))
    for _star in range(chance.randint(8, 22)):
        x, y, r = chance.randrange(big), chance.randrange(big * 2 // 3), chance.choice([2, 2, 3, 4])
        pen.ellipse([x - r, y - r, x + r, y + r], fill=(232, 238, 255))
    x, y = chance.randint(big // 4, big * 3 // 4), chance.randint(big // 5, big // 2)
    r = chance.randint(big // 10, big // 6)
    pen.ellipse([x - r, y - r, x + r, y + r], fill=(246, 227, 180))
    if chance.random() < 0.6:
        shift = r * chance.uniform(0.3, 0.7)
        sky = image.getpixel((max(0, int(x - r - 8)), int(y)))
        pen.ellipse([x - r + shift, y - r - shift / 3, x + r + shift, y + r - shift / 3], fill=sky)
    for layer in range(3):
        base, height, phase = big * (0.68 + 0.11 * layer), big * chance.uniform(0.03, 0.09), chance.uniform(0, 6)
        hills = [(px, base + height * math.sin(phase + px / big * chance.uniform(5, 6))) for px in range(0, big + 8, 8)]
        pen.polygon([(0, big), *hills, (big, big)], fill=colour(0.26 - 0.07 * layer, 0.35))
    out = BytesIO()
    image.resize((side, side), Image.Resampling.LANCZOS).save(out, "WEBP", quality=86)
    return out.getvalue()
