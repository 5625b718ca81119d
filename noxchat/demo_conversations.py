"""Demo conversations: short and long, a group, unread messages, in Russian and English."""

import random
from datetime import datetime, timedelta

from sqlalchemy import insert, select

from noxchat.database import now
from noxchat.extensions import db
from noxchat.models import DIRECT, GROUP, Conversation, Member, Message, User, friends
from noxchat.models.conversations import CREATED, TEXT
from noxchat.search import make_search_text

# Each line begins with < for what the friend wrote, or > for the first person. After ----, it is unread.
DIALOGUES = (
    """
    < Are you still up? The sky is completely clear tonight.
    < Leonids peak around three.
    > Still up. Tea is ready, telescope is not.
    > Give me twenty minutes
    < Договорились, беру плед
    < Counted eleven before the clouds came. Photos tomorrow, they need stacking first.
    > Eleven beats my two. I blame the street lamp.
    ----
    < Same place on Friday? There is a darker spot past the old water tower: https://www.openstreetmap.org/#map=15/59.93/30.31
    < I will bring the big thermos
    """,
    """
    > Ты не забыл про ключи?
    < Ключи у соседей, как договаривались
    > Спасибо! Вернусь в воскресенье
    ----
    < Хорошо. Цветы я полил, кот требует внимания
    < И ещё: завтра после восьми придут чинить свет
    < Если что, звони
    """,
    """
    < Happy birthday! 🎉
    > Thank you! The cake did not survive the evening
    """,
    """
    < It works now, it was the cable
    > It is always the cable
    """,
    """
    > Сколько грибов в этом году?
    < Ведро. Остальное съели по дороге
    > Пришли рецепт
    < Лук, сметана, терпение
    """,
    """
    < Could you look at page 4 of the draft? I am not sure about the last paragraph.
    > Looked. I would cut it in half, the second sentence says it all.
    < You are right, as usual. Done.
    """,
    """
    ----
    < Hoo is bringing the tripod?
    """,
    """
    < В субботу играем? Нас пока трое
    > Буду к семи
    """,
    """
    > Did the parcel arrive?
    < Yesterday! Sorry, I forgot to tell you. The blue one is perfect.
    """,
    """
    < God natt!
    """,
)
GROUP_TITLE = "Friday under the stars"
GROUP_DIALOGUE = (
    *("Who is in for Friday?", "Я за!", "Me too, if the train runs", "I can take three people in the car"),
    *("Прогноз обещает ясную ночь", "Then I will bring the small telescope as well", "Кто берёт чай?"),
    *("Tea is on me", "See you at the water tower at nine"),
)
GROUP_UNREAD = 3
SMALL_TALK = (
    *("How was it?", "Better than I thought.", "Tell me everything tomorrow", "The bread is in the oven", "На связи"),
    *("Уже выхожу", "Ten minutes late, sorry", "No hurry", "Видел луну? Смотри на восток", "I can see it from here!"),
    *("Нашла твою книгу, она была под котом", "Of course it was", "Let us meet at the station", "Ок", "👍"),
    *("I wrote down our three ideas. The second one is the best, but we should sleep on it.", "Согласен"),
)
LONG = 400  # messages


def fill(first: User, chance: random.Random):
    """Give somebody conversations with their friends. chance: decides with whom, and when."""
    found = select(User).join(friends, friends.c.friend_id == User.id).where(friends.c.user_id == first.id)
    people = list(db.session.scalars(found.order_by(User.id)))
    chance.shuffle(people)
    for number, (person, dialogue) in enumerate(zip(people, DIALOGUES, strict=False)):
        lines = [line.strip() for line in dialogue.strip().splitlines()]
        unread = len(lines) - 1 - lines.index("----") if "----" in lines else 0
        texts = [(first if line[0] == ">" else person, line[2:]) for line in lines if line != "----"]
        _add_direct(first, person, texts, unread, now() - timedelta(hours=1 + number * 9), chance)
    if len(people) > len(DIALOGUES):
        person = people[len(DIALOGUES)]
        texts = [(chance.choice([first, person]), chance.choice(SMALL_TALK)) for _number in range(LONG)]
        _add_direct(first, person, texts, 0, now() - timedelta(days=2), chance)
    _add_group(first, people[:4], chance)


def _add_direct(
    first: User, person: User, texts: list[tuple[User, str]], unread: int, end: datetime, chance: random.Random
):
    low, high = sorted((first.id, person.id))
    values = {"kind": DIRECT, "low_id": low, "high_id": high, "title": "", "search_text": ""}
    _add(values, first, [person], [(author, TEXT, text) for author, text in texts], unread, end, chance)


def _add_group(first: User, people: list[User], chance: random.Random):
    members = [first, *people]
    values = {"kind": GROUP, "title": GROUP_TITLE, "search_text": make_search_text(GROUP_TITLE), "owner_id": first.id}
    others = [(chance.choice(people or members), TEXT, text) for text in GROUP_DIALOGUE]
    _add(values, first, people, [(first, CREATED, ""), *others], GROUP_UNREAD, now() - timedelta(minutes=20), chance)


def _add(
    values: dict,
    first: User,
    people: list[User],
    lines: list[tuple[User, str, str]],
    unread: int,
    end: datetime,
    chance: random.Random,
):
    """Add a conversation. lines: author, kind and text of each message; the last `unread` are unread by `first`."""
    inserted = insert(Conversation).values(values).returning(Conversation.id)
    conversation_id = db.session.execute(inserted).scalar_one()
    times = [end]
    for _line in lines[1:]:
        times.append(times[-1] - timedelta(minutes=chance.choice([0, 1, 2, 3, 30, 300])))
    ids = []
    for number, ((author, kind, text), time) in enumerate(zip(lines, reversed(times), strict=True), 1):
        message = {"kind": kind, "author_id": author.id, "body": text, "created_at": time, "version": number}
        client_id = f"demo-{number}" if kind == TEXT else None
        row = insert(Message).values(conversation_id=conversation_id, client_id=client_id, **message)
        ids.append(db.session.execute(row.returning(Message.id)).scalar_one())
    read = [{"user_id": person.id, "read_up_to": ids[-1]} for person in people]
    read.append({"user_id": first.id, "read_up_to": ids[-1 - unread] if unread < len(ids) else 0})
    db.session.execute(insert(Member), [{"conversation_id": conversation_id, **row} for row in read])
    conversation = db.session.get_one(Conversation, conversation_id)
    conversation.version, conversation.last_message_id = len(ids), ids[-1]
    conversation.last_at = conversation.changed_at = end
    db.session.flush()
