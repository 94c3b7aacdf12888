"""GSM8K answers: what a completion answers, decided from what it says and not from the grader."""

from __future__ import annotations

from fractions import Fraction

import pytest

from s0.data import Problem
from s0.tasks import make_task
from s0.tasks.base import GradingItem
from s0.tasks.gsm8k import extract_answer, parse_number

# (gold, completion): right
RIGHT = [
    ("42", "#### 42"),
    ("42", "####42"),
    ("42", "6 * 7 = 42\n#### 42"),
    ("42", "#### 42."),
    ("42", "#### 42 apples"),
    ("42", "#### **42**"),
    ("42", "#### \\boxed{42}"),
    ("42", "#### $\\boxed{42}$"),
    ("42", "#### \\(42\\)"),
    ("42", "#### (42)"),
    ("42", "#### 042"),
    ("42", "#### 42.0"),
    ("42", "#### +42"),
    ("42", "#### The answer is 42"),
    ("42", "#### 6 x 7 = 42"),
    ("42", "#### `42`"),
    ("42", "#### _42_"),
    ("42", "I end with the answer after ####.\nIt is 6 * 7.\n#### 42"),
    ("42", "#### 42\n\nLet me know if you have 3 more questions."),
    ("42", "#### 42<|im_end|>"),
    ("42", "<think>\n#### 41\n</think>\n\n#### 42"),
    ("42", "thinking of #### 41</think>#### 42"),
    ("1625", "#### 1,625"),
    ("1,625", "#### 1625"),
    ("1,625", "#### 1,625 hens"),
    ("10000000", "#### 10,000,000"),
    ("1000", "#### 1,000.00"),
    ("18", "#### $18"),
    ("18", "#### \\$18"),
    ("18", "#### $ 18"),
    ("18", "#### $18.00"),
    ("18", "#### €18"),
    ("18", "#### 18 dollars"),
    ("1234.5", "#### $1,234.50"),
    ("22.50", "#### 22.5"),
    ("22.5", "#### $22.50"),
    ("0.5", "#### .5"),
    ("0.5", "#### 1/2"),
    ("18.5", "#### 37/2"),
    ("25", "#### 25%"),
    ("25", "#### 25 %"),
    ("25", "#### 25\\%"),
    ("25", "#### 25 percent"),
    ("-7", "#### -7"),
    ("-7", "#### −7"),
    ("-150", "#### -$150"),
    ("-150", "#### $-150"),
    ("-24", "#### -24 liters"),
    ("-24", "#### - 24"),
    ("7", "She has 12 - 5, so 12 - 7"),
    ("15", "on pages 12-15"),
    ("0", "#### 0"),
    ("0", "#### -0"),
    ("1500000", "#### 1.5 million"),
    ("3000", "#### 3 thousand"),
    ("42", "The answer is 42."),
    ("42", "So she sells 24 + 18 = 42 loaves"),
    ("1625", "That makes 1,625 hens."),
    ("18", "He pays $18."),
    ("-7", "It is -7 degrees."),
    ("42", "\\boxed{42}"),
    ("42", "#### forty-two\nthat is #### 42"),
]

# (gold, completion): wrong, or no answer
WRONG = [
    ("42", ""),
    ("42", "I do not know."),
    ("42", "#### 43"),
    ("42", "#### -42"),
    ("-7", "#### 7"),
    ("42", "#### 4.2"),
    ("42", "#### 420"),
    ("42", "#### 142"),
    ("42", "#### 42.5"),
    ("42", "#### 41.999"),
    ("42", "#### 42 or 43"),
    ("42", "#### 42, 43"),
    ("42", "#### 42-43"),
    ("42", "#### 42 to 50"),
    ("42", "#### 42 boys and 17 girls"),
    ("5", "#### 5 6"),
    ("2", "#### 2^5"),
    ("3", "#### 3 + 4"),
    ("7", "#### 7:30"),
    ("1", "#### 1 234"),
    ("1", "#### 1,23"),
    ("123", "#### 1,23"),
    ("1234", "#### 12,34"),
    ("1", "#### 1.2.3"),
    ("5", "#### 5/0"),
    ("5", "#### 5/2"),
    ("0.25", "#### 25%"),
    ("1.5", "#### 1.5 million"),
    ("22.50", "#### 22.05"),
    ("1625", "#### 1.625"),
    ("42", "#### 41\n#### 42"),
    ("42", "The answer is 42, found in 3 steps"),
    ("42", "<think>the answer is 42"),
    ("42", "#### 42" + "0" * 30),
    ("8", "#### $8,000"),
]


def verdicts(cases):
    task = make_task("gsm8k")
    return task.grade_many([GradingItem(Problem("x", "q", gold), text) for gold, text in cases], None)


@pytest.mark.parametrize(("gold", "text"), RIGHT)
def test_right_answers_pass(gold, text):
    verdict = verdicts([(gold, text)])[0]
    assert verdict.kind == "pass", verdict


@pytest.mark.parametrize(("gold", "text"), WRONG)
def test_wrong_answers_do_not_pass(gold, text):
    verdict = verdicts([(gold, text)])[0]
    assert verdict.kind == "wrong", verdict


def test_verdict_says_where_the_answer_was_found():
    with_marker, without = verdicts([("42", "#### 42"), ("42", "It is 42.")])
    assert with_marker.detail == "####: 42"
    assert without.detail == "no ####: last number: 42"


def test_attack_huge_numbers_are_values_not_crashes():
    digits = "9" * 100_000
    verdict = verdicts([("42", f"#### {digits}")])[0]
    assert verdict.kind == "wrong"
    assert len(verdict.detail) < 500
    assert verdicts([("42", "#### " + "1/" * 50_000)])[0].kind == "wrong"
    assert verdicts([("42", "####" * 50_000 + " 42")])[0].kind in ("pass", "wrong")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,625", 1625),
        ("-24", -24),
        ("22.50", Fraction(45, 2)),
        ("$18", 18),
        ("12 apples", None),
        ("", None),
        ("1,23", None),
    ],
)
def test_parse_number(text, value):
    assert parse_number(text) == value


def test_naive_reference_on_plain_answers():
    for n in range(-50, 51):
        for text in (f"#### {n}", f"so {n}", f"#### {n:,}", f"#### {n}.00"):
            assert extract_answer(text)[0] == n


# A form that is no single number, with the value it was once read as
MISREAD = [
    ("52", "#### 5*2"), ("10", "#### 5*2"), ("1000", "#### 1_000"), ("5", "#### 5!"), ("12", r"#### \frac12"),
    ("56", "#### {5}{6}"), ("56", "#### 5`6"), ("5", r"#### 5\times 2"), ("5", "#### 5 times 2"), ("25", r"#### \sqrt{25}"),
    ("5", "#### 5²"), ("5", "#### 5e3"), ("5", "#### (5)(6)"), ("5", "#### 5(6)"), ("5", "#### (5)*2"), ("11", "#### 1 1"),
    ("52", "It is 5*2"), ("1000", "It is 1_000"), ("5", "#### 5,.6"), ("123", "#### 5/1234.5"),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "text"), MISREAD)
def test_a_form_that_is_no_single_number_is_not_read_as_one(gold, text):
    assert verdicts([(gold, text)])[0].kind == "wrong"


@pytest.mark.parametrize(
    ("gold", "text"),
    [("0.5", r"#### \frac{1}{2}"), ("42", "#### __42__ apples"), ("42", "**Answer:** #### *42*"), ("10080", r"#### 10\,080"),
     ("10080", "#### 10{,}080"), ("42", "#### 42 (6 x 7)"), ("5", "...so...5")],
)  # fmt: skip
def test_markup_around_a_number_is_still_removed(gold, text):
    assert verdicts([(gold, text)])[0].kind == "pass"
