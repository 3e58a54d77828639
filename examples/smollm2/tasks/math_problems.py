# ruff: noqa: E501  (one template a line)
"""Everyday word problems of two to four steps. Numbers are drawn; `{ab}` is a times b, so that divisions come out."""

import random
from collections.abc import Iterator

from tasks.words import NAMES, listed, pick

# {N}, {M}: two names; {a}, {b}, {c}: 2-9, 3-12, 2-6; {d}, {e}: 11-60, 20-99; {h}: hundreds; {p}: a percentage that is a
# multiple of 5; {price}: dollars; {thing}, {things2}: plural nouns; {day}.
_TEMPLATES = """
{N} buys {a} boxes of {thing} with {b} in each box and gives {c} to a friend. How many {thing} does {N} have left?
{N} earns ${d} an hour and works {a} hours a day, {c} days a week. After paying ${h} in rent, how much is left from one week?
A bakery sells {d} {thing} in the morning and {a} times as many in the afternoon. Each costs ${c}. How much money does it take in?
{N} has {e} {thing}. {M} has {d} fewer. Together they share them equally among {c} friends. How many does each friend get, and how many remain?
A train travels at {h} km/h for {c} hours and then at {e} km/h for {b} hours. How far does it travel in all?
{N} reads {d} pages a day. The book has {ad} pages. {N} has already read for {c} days. How many days are left?
A farmer has {b} rows of {d} trees each. {p}% of the trees are apple trees. How many are not apple trees?
{N} saves ${d} every week. A bicycle costs ${h}. After how many weeks can {N} buy it, if {M} adds ${e}?
A tank holds {h} liters. It fills at {b} liters a minute and leaks {c} liters a minute. How long does it take to fill?
{N} is {a} times as old as {M}, who is {b}. How old will {N} be in {c} years?
There are {ab} pupils in a school, in classes of {b}. Each class needs {c} rulers. How many rulers are needed?
A shirt costs ${e}. It is on sale for {p}% off, and {N} buys {a} of them. How much does {N} pay?
{N} runs {a} km on Monday and twice as far on {day}. On Friday {N} runs {c} km less than on Monday and {day} together. How many km are that in all?
A recipe for {a} people needs {abc} grams of flour. How much flour is needed for {b} people?
{N} has ${h}. {N} spends ${d} on {thing} and half of the rest on {things2}. How much money is left?
A bus starts with {e} passengers. At the first stop {b} get off and {a} get on; at the second, {d} get off. How many are on the bus now?
Three friends share a bill of ${h}. {N} pays ${d}, {M} pays twice as much. How much does the third friend pay?
{N} plants {d} seeds in each of {b} pots. {p}% of them grow. How many plants does {N} get?
A factory makes {h} {thing} a day. {c} out of every 100 are broken. How many good ones are made in {b} days?
{N} bakes {ab} {thing} and packs them into bags of {b}. Each bag sells for ${c}. How much money does {N} get for all the bags?
A movie ticket costs ${b} for adults and ${c} for children. A family of {a} adults and {c} children also buys popcorn for ${d}. What is the total?
{N} drives {h} miles on {d} gallons of gas. How many gallons are needed for a trip of {h2} miles?
A garden is {d} meters long and {b} meters wide. A fence costs ${c} a meter. What does a fence around the garden cost?
{N} collects {d} {thing} a month for {b} months and then sells {e} of them. How many are left?
In a class of {e} students, {d} play football and {b} play the piano, {c} of them do both. How many do neither?
{N} has a {h} page notebook and uses {c} pages a day on weekdays and {a} a day on weekends. How many pages are left after {b} weeks?
A water bottle holds {h} ml. {N} drinks {c} bottles a day. How many liters does {N} drink in {d} days?
{N} buys {a} notebooks at ${price} each and {b} pens at ${c}.50 each. How much change does {N} get from ${h}?
A parking garage charges ${c} for the first hour and ${a} for each further hour. {N} paid ${ab}. {M} parked {b} hours. How much did {M} pay?
The sum of two numbers is {e}. One of them is {a} more than the other. What is the larger number?
{N} walks to school in {d} minutes and takes the bus back in {b} minutes, {c} days a week. How many hours does {N} spend on the way in {a} weeks?
A store had {h} {thing}. It sold {p}% on Saturday and {d} on Sunday. How many are left?
{N} and {M} paint a fence of {ab} boards. {N} paints {a} boards an hour, {M} {c}. How many boards are left after {c} hours?
A phone plan costs ${d} a month plus ${c} for each gigabyte over {b}. {N} used {e} gigabytes. What is the bill?
There are {d} cows and {e} chickens on a farm. How many legs are there in all, and how many more legs do the cows have?
{N} cuts a rope of {abc} cm into {a} equal pieces and each piece into {b} equal parts. How long is one part?
A swimming pool is {d} meters long. {N} swims {b} lengths, rests, and swims {a} times as many again. How far did {N} swim?
{N} gets {p}% interest a year on ${h}. How much money is in the account after two years if the interest is paid out?
A pizza is cut into {b} slices. {N}'s {a} guests eat {c} slices each, and there are {d} pizzas. How many slices are left?
{N} has {a} times as many {thing} as {M}. Together they have {e}. About how many does {M} have?
A machine prints {d} pages a minute. It is stopped for {c} minutes after every {h} pages. How long do {h2} pages take?
The temperature was {d} degrees at noon. It fell by {c} degrees each hour for {a} hours and then rose by {b}. What was it then?
A carton holds {b} {thing}, a crate holds {d} cartons, a truck holds {e} crates. How many {thing} are in {c} trucks?
{N} sells lemonade for ${c} a cup. Lemons cost ${d} and sugar ${b}. How many cups must {N} sell to make ${e} profit?
{N}'s garden gives {d} kg of tomatoes. {N} keeps {b} kg and sells the rest at ${c} a kg. {M} gets {p}% of the money. How much does {N} keep?
In an election {h} people voted. {p}% voted for {N}, {d} for {M} and the rest for nobody. How many voted for nobody?
{N} needs {h} points. {N} has {a} games of {d} points and {c} games of {b} points. How many points are missing?
A hotel has {b} floors with {d} rooms each. {e} rooms are taken. A room costs ${h} a night. How much would the free rooms bring in one night?
{N} mixes {a} liters of juice with {b} liters of water and fills glasses of 250 ml. How many glasses are that?
A worker lays {d} bricks an hour. {c} workers build a wall of {h2} bricks. How many hours do they need?
""".strip().splitlines()
_THINGS = listed("""
apples|marbles|stickers|cupcakes|pencils|muffins|oranges|cards|books|eggs|cookies|balloons|coins|stamps|shells|roses
candles|buttons|tickets|peaches|toys|postcards|beads|sandwiches|bottles|lamps|plates|keys|comics|tulips
""")
_ASK = (
    "|||||||||Solve this problem step by step: |Solve: |Please solve the following word problem. |Math problem: |"
    "Can you help me with this? |Question: |Work out the answer: |Answer this and show your work: |Homework question: "
)
_TAIL = (
    "||||||||| Explain your reasoning.| Show the steps.| Think step by step.| Give only the final number at the end.|"
    "\n\nAnswer:|\nLet's think step by step.| Show your calculation.| Please explain each step."
)


def _numbers(rng: random.Random) -> Iterator[tuple[str, int | str]]:
    a, b, c = rng.randint(2, 9), rng.randint(3, 12), rng.randint(2, 6)
    d, e = rng.randint(11, 60), rng.randint(60, 99)
    yield from {"a": a, "b": b, "c": c, "d": d, "e": e, "ab": a * b, "ad": a * d, "abc": a * b * c}.items()
    yield from {"h": 50 * rng.randint(2, 16), "h2": 100 * rng.randint(8, 40), "p": 5 * rng.randint(1, 12)}.items()
    yield "price", f"{rng.randint(1, 14)}.{rng.choice(('25', '50', '75', '99'))}"


def prompt(rng: random.Random) -> str:
    names, things = rng.sample(NAMES, 2), rng.sample(_THINGS, 2)
    day = pick(rng, "Tuesday|Wednesday|Thursday")
    problem = rng.choice(_TEMPLATES).format(
        N=names[0], M=names[1], thing=things[0], things2=things[1], day=day, **dict(_numbers(rng))
    )
    return pick(rng, _ASK) + problem + pick(rng, _TAIL)
