"""Builds the Spider fixture: small databases (two files each for some, as in the test suite) and their questions.

    python tests/data/spider/build.py [FOLDER]

Everything here was written for this project, in the schema of the real data set. Without FOLDER it rebuilds this folder.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

SCHEMAS: dict[str, str] = {
    "library": """
CREATE TABLE author (author_id INTEGER PRIMARY KEY, name TEXT NOT NULL, country TEXT, birth_year INTEGER);
CREATE TABLE book (book_id INTEGER PRIMARY KEY, title TEXT, author_id INTEGER, year INTEGER, pages INTEGER, price REAL,
  FOREIGN KEY (author_id) REFERENCES author(author_id));
CREATE TABLE loan (loan_id INTEGER PRIMARY KEY, book_id INTEGER, member TEXT, days INTEGER);""",
    "bakery": """
CREATE TABLE product (id INTEGER PRIMARY KEY, name TEXT, kind TEXT, price REAL, vegan INTEGER);
CREATE TABLE sale (sale_id INTEGER PRIMARY KEY, product_id INTEGER, day TEXT, amount INTEGER);""",
    "flights": """
CREATE TABLE airline (code TEXT PRIMARY KEY, name TEXT, country TEXT);
CREATE TABLE flight (number INTEGER PRIMARY KEY, airline TEXT, origin TEXT, destination TEXT, distance INTEGER, price REAL);""",
    "clubs": """
CREATE TABLE student (id INTEGER PRIMARY KEY, name TEXT, grade INTEGER, city TEXT);
CREATE TABLE club (id INTEGER PRIMARY KEY, name TEXT, room TEXT);
CREATE TABLE member (student_id INTEGER, club_id INTEGER, since INTEGER, active INTEGER, paid INTEGER);""",
}

# One list of rows per table and file; the second file of a database tells apart queries that agree on the first.
ROWS: dict[str, list[dict[str, list[tuple[object, ...]]]]] = {
    "library": [
        {
            "author": [(1, "Ada Berg", "Norway", 1950), (2, "Ben Cho", "Korea", 1971), (3, "Cleo Diaz", "Spain", 1971),
                       (4, "Dan Eck", "Norway", None)],
            "book": [(1, "North", 1, 1999, 320, 12.5), (2, "South", 1, 2004, 150, 9.0), (3, "Maps", 2, 2004, 410, 20.0),
                     (4, "Tides", 3, 2010, 210, 12.5), (5, "Stars", 3, 2015, 275, 15.0), (6, "Maps", 4, 2019, 90, 7.5)],
            "loan": [(1, 1, "Eva", 14), (2, 3, "Finn", 7), (3, 1, "Finn", 21), (4, 5, "Gus", 14), (5, 3, "Eva", 3)],
        },
        {
            "author": [(1, "Xi Ma", "China", 1940), (2, "Yan Po", "China", 1960), (3, "Zoe Quist", "Norway", 1980)],
            "book": [(1, "One", 1, 2001, 100, 5.0), (2, "Two", 1, 2001, 100, 5.0), (3, "Three", 2, 1990, 500, 30.0)],
            "loan": [(1, 1, "Kai", 1), (2, 2, "Kai", 1), (3, 2, "Lou", 30)],
        },
    ],
    "bakery": [
        {
            "product": [(1, "Rye", "bread", 4.2, 1), (2, "Brioche", "bread", 5.5, 0), (3, "Muffin", "cake", 2.5, 0),
                        (4, "Seed bar", "cake", 2.5, 1), (5, "Pretzel", "snack", 1.8, 1)],
            "sale": [(1, 1, "Mon", 10), (2, 3, "Mon", 24), (3, 5, "Tue", 40), (4, 1, "Tue", 8), (5, 4, "Wed", 12),
                     (6, 2, "Wed", 6)],
        },
    ],
    "flights": [
        {
            "airline": [("NB", "Nordbird", "Norway"), ("SX", "Sunex", "Spain"), ("KO", "Koair", "Korea")],
            "flight": [(10, "NB", "Oslo", "Madrid", 2390, 180.0), (11, "NB", "Oslo", "Bergen", 305, 60.0),
                       (20, "SX", "Madrid", "Oslo", 2390, 175.0), (21, "SX", "Madrid", "Seoul", 10010, 700.0),
                       (22, "SX", "Madrid", "Malaga", 430, 60.0), (30, "KO", "Seoul", "Oslo", 7700, 650.0)],
        },
        {
            "airline": [("AA", "Aba", "Chad"), ("BB", "Bebe", "Chad"), ("CC", "Cece", "Peru")],
            "flight": [(1, "AA", "P", "Q", 100, 10.0), (2, "AA", "Q", "P", 100, 10.0), (3, "BB", "P", "R", 50, 99.0)],
        },
    ],
    "clubs": [
        {
            "student": [(1, "Hana", 9, "Oslo"), (2, "Igor", 10, "Rome"), (3, "Jun", 9, "Oslo"), (4, "Kim", 11, "Rome"),
                        (5, "Lea", 10, None)],
            "club": [(1, "Chess", "A1"), (2, "Choir", "B2"), (3, "Robots", "A1"), (4, "Garden", "C3")],
            "member": [(1, 1, 2021, 1, 0), (1, 3, 2022, 1, 1), (2, 1, 2022, 0, 0), (3, 2, 2021, 1, 1), (4, 1, 2023, 1, 1),
                       (5, 2, 2023, 0, 1)],
        },
    ],
}  # fmt: skip

TRAIN: list[tuple[str, str, str]] = [
    ("library", "How many books are there?", "SELECT count(*) FROM book"),
    ("library", "List the titles of all books from newest to oldest.", "SELECT title FROM book ORDER BY year DESC"),
    ("library", "What are the names of authors from Norway?", "SELECT name FROM author WHERE country = 'Norway'"),
    ("library", "What is the average number of pages of a book?", "SELECT avg(pages) FROM book"),
    ("library", "Show title and price of books that cost more than 10.", "SELECT title, price FROM book WHERE price > 10"),
    ("library", "Which different countries do the authors come from?", "SELECT DISTINCT country FROM author"),
    ("library", "How many books has each author written? Show name and number.",
     "SELECT T1.name, count(*) FROM author AS T1 JOIN book AS T2 ON T1.author_id = T2.author_id GROUP BY T1.author_id"),
    ("library", "Which authors have no birth year on file?", "SELECT name FROM author WHERE birth_year IS NULL"),
    ("library", "What is the title of the longest book?", "SELECT title FROM book ORDER BY pages DESC LIMIT 1"),
    ("library", "Which members have borrowed the book called North?",
     "SELECT T2.member FROM book AS T1 JOIN loan AS T2 ON T1.book_id = T2.book_id WHERE T1.title = 'North'"),
    ("library", "Find titles of books that were never lent.",
     "SELECT title FROM book WHERE book_id NOT IN (SELECT book_id FROM loan)"),
    ("bakery", "List all product names in alphabetical order.", "SELECT name FROM product ORDER BY name"),
    ("bakery", "What is the highest price?", "SELECT max(price) FROM product"),
    ("bakery", "How many products are vegan?", "SELECT count(*) FROM product WHERE vegan = 1"),
    ("bakery", "What is the average price for each kind?", "SELECT kind, avg(price) FROM product GROUP BY kind"),
    ("bakery", "Which kinds have more than one product?", "SELECT kind FROM product GROUP BY kind HAVING count(*) > 1"),
    ("bakery", "How many items were sold in total on Monday?", "SELECT sum(amount) FROM sale WHERE day = 'Mon'"),
    ("bakery", "Show the name of each product and the amount sold of it.",
     "SELECT T1.name, sum(T2.amount) FROM product AS T1 JOIN sale AS T2 ON T1.id = T2.product_id GROUP BY T1.id"),
    ("bakery", "Which products are vegan or cost less than 2?", "SELECT name FROM product WHERE vegan = 1 OR price < 2"),
    ("bakery", "Which days had sales?", "SELECT DISTINCT day FROM sale"),
    ("bakery", "Which products are cheaper than the average?",
     "SELECT name FROM product WHERE price < (SELECT avg(price) FROM product)"),
]  # fmt: skip

VALIDATION: list[tuple[str, str, str]] = [
    ("flights", "How many flights are there?", "SELECT count(*) FROM flight"),
    ("flights", "List origin and destination of all flights.", "SELECT origin, destination FROM flight"),
    ("flights", "What are the names of all airlines, sorted?", "SELECT name FROM airline ORDER BY name"),
    ("flights", "What is the longest distance?", "SELECT max(distance) FROM flight"),
    ("flights", "How many flights does each airline have? Show airline name and number.",
     "SELECT T1.name, count(*) FROM airline AS T1 JOIN flight AS T2 ON T1.code = T2.airline GROUP BY T1.code"),
    ("flights", "Which cities have departing flights?", "SELECT DISTINCT origin FROM flight"),
    ("flights", "Show number and price of the two cheapest flights, cheapest first.",
     "SELECT number, price FROM flight ORDER BY price, number LIMIT 2"),
    ("flights", "Which airlines fly from Madrid?",
     "SELECT DISTINCT T1.name FROM airline AS T1 JOIN flight AS T2 ON T1.code = T2.airline WHERE T2.origin = 'Madrid'"),
    ("flights", "Which cities are both an origin and a destination?",
     "SELECT origin FROM flight INTERSECT SELECT destination FROM flight"),
    ("flights", "What is the average price of flights longer than 1000?", "SELECT avg(price) FROM flight WHERE distance > 1000"),
    ("flights", "Show smallest, largest and average price.", "SELECT min(price), max(price), avg(price) FROM flight"),
    ("clubs", "How many students are in grade 9?", "SELECT count(*) FROM student WHERE grade = 9"),
    ("clubs", "Show name and grade of every student.", "SELECT name, grade FROM student"),
    ("clubs", "Which rooms are used by clubs?", "SELECT DISTINCT room FROM club"),
    ("clubs", "Which clubs have no members?", "SELECT name FROM club WHERE id NOT IN (SELECT club_id FROM member)"),
    ("clubs", "List the names of students in the Chess club.",
     "SELECT T1.name FROM student AS T1 JOIN member AS T2 ON T1.id = T2.student_id "
     "JOIN club AS T3 ON T2.club_id = T3.id WHERE T3.name = 'Chess'"),
    ("clubs", "How many students live in each city?", "SELECT city, count(*) FROM student GROUP BY city"),
    ("clubs", "Which students live in Oslo but are not in the Chess club?",
     "SELECT name FROM student WHERE city = 'Oslo' EXCEPT SELECT T1.name FROM student AS T1 JOIN member AS T2 "
     "ON T1.id = T2.student_id WHERE T2.club_id = 1"),
    ("clubs", "Show whether each membership is active and paid.", "SELECT active, paid FROM member"),
    ("clubs", "What is the name of the club with most members?",
     "SELECT T1.name FROM club AS T1 JOIN member AS T2 ON T1.id = T2.club_id GROUP BY T1.id ORDER BY count(*) DESC LIMIT 1"),
    ("clubs", "List students by grade, highest first, then by name.", "SELECT name FROM student ORDER BY grade DESC, name"),
]  # fmt: skip


def tokenize(text: str) -> list[str]:
    spaced = "".join(f" {c} " if c in "(),?.'=<>" else c for c in text)
    return spaced.split()


def row(db_id: str, question: str, query: str) -> dict[str, object]:
    """One row with the columns of the published data set."""
    tokens = tokenize(query)
    return {
        "db_id": db_id,
        "query": query,
        "question": question,
        "query_toks": tokens,
        "query_toks_no_value": ["value" if t.isdigit() else t.lower() for t in tokens],
        "question_toks": tokenize(question),
    }


def write_database(path: Path, schema: str, tables: dict[str, list[tuple[object, ...]]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA page_size = 1024")
        connection.executescript(schema)
        for table, rows in tables.items():
            connection.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)
        connection.commit()
        connection.execute("VACUUM")


def build(folder: Path) -> None:
    for db_id, schema in SCHEMAS.items():
        for number, tables in enumerate(ROWS[db_id]):
            name = f"{db_id}.sqlite" if number == 0 else f"{db_id}_variant{number}.sqlite"
            write_database(folder / "database" / db_id / name, schema.strip(), tables)
    for split, questions in (("train", TRAIN), ("validation", VALIDATION)):
        lines = [json.dumps(row(*question)) + "\n" for question in questions]
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
