# ruff: noqa: E501  (one template a line)
"""Invented news and notes with names, dates and figures, and questions on them: what the target's own texts lack.

A kind of story is a list of lines in order. Alternatives are separated by "|"; a line that starts with "?" is left out
now and then; an empty line ends a paragraph. All slots of a story are drawn once, so that it agrees with itself.
"""

import random
from dataclasses import dataclass

from tasks.words import JOBS, NAMES, listed

_TOWN_START = listed("Ash|Bram|Carl|Dun|Elm|Farn|Gar|Harl|Kel|Lang|Mar|Nor|Oak|Pen|Red|Sel|Thorn|Wes|Whit|Yar")
_TOWN_END = listed("bridge|by|dale|ford|ham|haven|mere|mouth|stead|ton|wick|worth")
_LAST = listed("""
Adeyemi|Albrecht|Bauer|Castillo|Chaudhry|Costa|Dubois|Eriksen|Fischer|Fontaine|Garcia|Haddad|Hansen|Ito|Jansen
Kaplan|Keller|Kowalski|Larsen|Lindqvist|Marino|Mbeki|Moreau|Nakamura|Novak|Okafor|Olsen|Petrov|Quiroga|Rahman
Rossi|Sato|Schreiber|Silva|Tanaka|Varga|Weiss|Whitlock|Yilmaz|Zhang
""")
_MONTHS = listed("January|February|March|April|May|June|July|August|September|October|November|December")
_DAYS = listed("Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday")
_BUILDINGS = listed(
    "library|swimming pool|footbridge|bus station|town hall|theater|sports hall|market hall|museum|tram line"
)
_ANIMALS = listed("beavers|otters|white storks|lynxes|wild bees|sea turtles|gray seals|barn owls|river salmon|bats")
_GOODS = listed("bicycles|solar panels|furniture|frozen meals|hearing aids|toys|water pumps|running shoes|batteries")
_SPORTS = listed("football|basketball|handball|hockey|volleyball|rugby")
_HABITS = listed("""short walks after lunch|singing in a choir|learning a second language|sleeping an hour longer|reading on paper
gardening|eating nuts every day|playing chess|cycling to work|taking cold showers""")
_EFFECTS = listed("a better memory|lower blood pressure|fewer sick days|a better mood|more stable weight|less stress")

_BUILDING = """
The {building} in {town} will get a new building, the town council decided on {day}.|After years of debate, {town} is to get a new {building}.|Work on a new {building} in {town} is to begin in {month}.
The project will cost {million} million dollars, of which the region pays {percent} percent.|The costs are put at {million} million dollars; {percent} percent of that comes from the region.
{n} members of the council voted in favor, {small} against.|The decision was made with {n} votes to {small}.

"{town} has waited for this for {years} years," said Mayor {person}.|Mayor {person} spoke of "a good day for everybody in {town}".
The old building dates from {year} and was closed last {month2} because of damage to the roof.|The present building, which was opened in {year}, has been closed since {month2} because water came through the roof.
?Inspectors had found cracks in {small} of its walls.|Repairs would have cost almost as much as a new one, experts found.

{person2}, who runs a shop next door, fears noise and dust.|Not everyone is happy: {person2} and {hundred} other residents have signed a petition.
"We were never asked," {last2} said.|"Why does nobody talk to us?" asked {last2}.
The council has promised to stop all work at night and on weekends.|The town says that trucks will only drive between eight and six.
?A public meeting is planned for {date}.|Questions can be asked at a meeting on {date}.

The architect, {person3} of {town2}, wants to build with wood and to put solar panels on the roof.|According to the plans of {person3}, an architect from {town2}, most of it will be built of wood.
The new {building} is to open in {month3} of next year and to have room for {hundred} visitors.|It is meant to open next {month3}, with room for {hundred} people at a time.
?Until then a tent beside the {place} has to do.|In the meantime, visitors are sent to {town2}.
= How much will the new {building} in {town} cost?|When is the new {building} in {town} to open?|Who is the mayor of {town}?|Why was the old {building} in {town} closed?|Who is the architect of the {building}?|How many people will the new {building} have room for?
"""
_FIRE = """
A fire in a {goods} warehouse in {town} has caused damage of about {million} million dollars.|A large fire destroyed a warehouse full of {goods} in {town} on {day} night.
Nobody was killed, but {small} people were taken to hospital with smoke poisoning.|{small} workers breathed in smoke and were treated in hospital.
The alarm was raised at {hour}:{minute} p.m. by {person}, a {job} who was walking a dog.|{person}, a {job} from the neighborhood, saw the flames at {hour}:{minute} p.m. and called the fire service.

{n} firefighters from {town} and {town2} fought the fire for {years} hours.|It took {n} firefighters {years} hours to bring the flames under control.
"When we arrived, the roof was already burning," said fire chief {person2}.|Fire chief {person2} called it the hardest night in {years} years.
Residents of {small} streets were told to keep their windows closed.|The smoke could be seen as far away as {town2}.
?The road to {town2} was closed until {day2} morning.|Trains between {town} and {town2} were stopped for the night.

The cause is still unknown.|What started the fire is not yet clear.
Police are looking at a broken heater, but do not rule out anything.|An old cable may have been the reason, police said.
The warehouse belongs to a company that employs {hundred} people.|The owner, a company with {hundred} employees, had moved there only in {month}.
?Its director, {person3}, thanked the firefighters and said that no jobs would be lost.|"We will build it again," said director {person3}.
A first report is expected on {date}.|Investigators want to present a report on {date}.
= Who noticed the fire in {town}?|What was stored in the warehouse in {town}?|How many firefighters fought the fire?|What may have caused the fire?|Who is the fire chief?|When is the report on the fire expected?
"""
_MATCH = """
{town} beat {town2} {high} to {small} on {day} and is now in the final of the regional {sport} cup.|The {sport} team of {town} has reached the cup final after a {high}-{small} win against {town2}.
{hundred} spectators saw a match that was open until the end.|In front of {hundred} spectators, both teams started nervously.
{person} put {town2} ahead after {minute2} minutes.|{town2} had the better start, and {person} scored early.

After the break, coach {person2} changed the whole attack.|Coach {person2} must have found the right words at half time.
Substitute {person3}, only {age} years old, turned the game almost alone.|It was {age}-year-old {person3} who made the difference.
?"I just wanted to run," {last3} said later.|"I will not sleep tonight," {last3} said.
?For {town2} it was one more defeat in a long season.|{town2} lost {small} players to injuries.

{town} has not won the cup since {year}.|The last title of {town} was in {year}.
In the final on {date} it will meet the winner of the game between {town3} and {town4}.|The final is on {date}; the opponent will be {town3} or {town4}.
Tickets cost {age} dollars and are sold from {day2} on.|Tickets can be bought from {day2} on, for {age} dollars.
?Half of the money goes to the youth club of {town}.|The club expects to sell out within hours.
= Who coaches the team of {town}?|Against whom did {town} win?|When is the final?|When did {town} last win the cup?|How old is {person3}?|How much do tickets for the final cost?
"""
_COMPANY = """
{company}, a maker of {goods} from {town}, earned {million} million dollars in the past year.|The {town} company {company}, which makes {goods}, has raised its profit to {million} million dollars.
That is {percent} percent more than in the year before.|This was an increase of {percent} percent.
Sales in Asia grew fastest, chief executive {person} said on {day}.|Most of the growth came from abroad, said {person}, who has led the company since {year}.

The company wants to build a second factory in {town2} and to hire {hundred} people there.|{hundred} new jobs are to be created in {town2}, where a factory will be built by {month}.
At the same time, {n} jobs in the offices will go.|In administration, however, {n} positions are to be cut.
The union criticized this: "Profits rise and people leave," said its speaker {person2}.|{person2} of the union called the cuts "hard to understand".
?Talks are to start on {date}.|Both sides will meet on {date}.

{company} was founded in {year2} by {person3} in a garage.|The firm goes back to {person3}, who repaired radios in {town} from {year2} on.
Today its {goods} are sold in {years} countries.|It now sells {goods} in {years} countries.
?Rising prices for copper could become a problem, analysts say.|Analysts warn that the rent in {town} has doubled.
For the coming year {last} expects growth of {small} percent.|The outlook is careful: {small} percent growth.
= Who is the chief executive of {company}?|Where will {company} build a factory?|When was {company} founded?|What does {company} make?|How much did {company} earn?|Who founded {company}?
"""
_STUDY = """
Can {habit} lead to {effect}? A study by the University of {town} says yes.|People who try {habit} can expect {effect}, researchers from {town} report.
The team around {person} followed {hundred} adults for {years} years.|{hundred} people between {age} and 70 took part in the study, which lasted {years} years.
In the group with the new habit, {percent} percent showed {effect}; in the other group it was {small} percent.|The effect was seen in {percent} percent of the participants, against {small} percent in the control group.

"We were surprised ourselves," said {last}.|According to {last}, the result is stronger than expected.
What matters is to do it at least {small} times a week.|Those who stopped after a few weeks had no benefit.
?Age and income made no difference.|Women and men benefited equally.

{person2}, a {job} who was not part of the team, warns against false hopes.|Other experts are careful: {person2} points out that many participants were volunteers.
"{effect} can have many reasons," {last2} said.|"A healthy life is more than one habit," {last2} said.
?The study was paid for by a foundation in {town2}.|The money came from a public fund.
A larger study with {n},000 people is to begin in {month}.|The researchers plan to repeat it in {town2} with {n},000 people from {month} on.
= How many people took part in the study?|Who led the study on {habit}?|What did the study on {habit} find?|Who paid for the study?|When does the larger study begin?|How long did the study last?
"""
_NATURE = """
After {years} years, {animals} have come back to the river near {town}.|{animals} are back in the valley of {town}: {n} of them have been counted this year.
{person}, a {job} who watches them in her free time, saw the first ones in {month}.|The first sighting was reported by {person} in {month}.
In {year} they had been declared lost in the region.|They had not been seen here since {year}.

The main reason is cleaner water, says biologist {person2}.|Biologist {person2} gives two reasons: less fertilizer and fewer boats.
Since {year2}, {hundred} hectares along the river have been protected.|A park of {hundred} hectares was set up in {year2}.
?Volunteers planted {n},000 willows.|School classes from {town2} helped to clear the banks.

Farmers see it with mixed feelings.|Not everybody is pleased.
"Last {month2} they ruined {small} of my fields," says {person3}.|{person3}, who owns land by the river, has lost {percent} percent of the harvest.
The region has promised to pay for such damage.|A fund of {million} million dollars is to pay for damage.
Visitors are asked to stay on the paths and to keep dogs on a leash.|Guided walks are offered every {day}, starting from the {place} at {hour2} o'clock.
= Which animals came back to {town}?|Why did the {animals} return?|Who is the biologist quoted in the text?|How large is the protected area?|Since when has the area been protected?|When are guided walks offered?
"""
_PLACE = """
{town} is a town of {n},000 people on the river {river}.|{town} lies on the river {river}, {percent} kilometers north of {town2}, and has {n},000 inhabitants.
It was first mentioned in {oldyear}, when a monastery bought land there.|The oldest document that names it is from {oldyear}.
A fire destroyed most of it in {oldyear2}; only the church of St. {saint} was left.|In {oldyear2} the whole center burned down, apart from the church of St. {saint}.

In the 19th century {town} grew rich with {goods2}.|The railway, opened in 18{percent}, brought factories that made {goods2}.
At its height, {small} mills employed {hundred} workers.|By 1900 there were {small} mills and {hundred} workers.
?The last mill closed in {year} and is now a museum.|Since {year} the largest mill has been a museum.

The best-known person from {town} is {person}, a {job} and painter.|The inventor {person} was born here in 18{percent}.
Every {month} the town celebrates a festival of lanterns that lasts {small} days.|The lantern festival in {month} draws about {age},000 visitors.
?The local dish is a pie with plums and cheese.|A bread with nuts, called {town} loaf, is baked only here.
Today most people work in the hospital or commute to {town2}.|The largest employer is the hospital with {hundred} jobs.
= On which river does {town} lie?|When was {town} first mentioned?|When did {town} burn down?|What was made in the mills of {town}?|Who is the best-known person from {town}?|How many people live in {town}?|When is the lantern festival?
"""
_STRIKE = """
Drivers of the buses in {town} will go on strike on {date}.|No bus will leave the depot of {town} on {date}: the drivers are on strike.
The union demands {percent} percent more pay and a break of {minute2} minutes in every shift.|They want {percent} percent more money and longer breaks.
About {n},000 passengers a day are affected.|That will hit {n},000 people who ride the buses every day.

The bus company offers {small} percent.|So far, the company has offered {small} percent and a single payment of {hundred} dollars.
"More is not possible," said its head, {person}.|Its head, {person}, called the demand "far from reality".
{person2}, who has driven a bus for {years} years, disagrees.|Driver {person2} has heard this for {years} years.
?"We start at four in the morning and cannot find new colleagues," {last2} said.|"{age} colleagues have left since {month}," {last2} said.

School buses will run as usual.|Only the school buses and line {n} will run.
The town recommends working from home, and parking at the {place} will be free.|Trains to {town2} will have more cars than usual.
?Mayor {person3} has offered to mediate.|Talks led by Mayor {person3} ended without a result on {day}.
If there is no agreement, a second strike will follow in {month2}.|Further strikes in {month2} are possible.
= When will the bus drivers of {town} go on strike?|How much more pay does the union demand?|What does the bus company offer?|Which buses will run during the strike?|Who is the head of the bus company?|How many passengers are affected?
"""
_KINDS = (_BUILDING, _FIRE, _MATCH, _COMPANY, _STUDY, _NATURE, _PLACE, _STRIKE)


@dataclass(frozen=True, slots=True)
class Story:
    """A text, and questions that it answers or nearly answers."""

    kind: int
    paragraphs: list[str]
    questions: list[str]

    @property
    def text(self) -> str:
        return "\n\n".join(self.paragraphs)


def _slots(rng: random.Random) -> dict[str, object]:
    starts, firsts, lasts = rng.sample(_TOWN_START, 5), rng.sample(NAMES, 3), rng.sample(_LAST, 4)
    towns = [start + rng.choice(_TOWN_END) for start in starts]
    months, days = rng.sample(_MONTHS, 3), rng.sample(_DAYS, 2)
    people = [f"{first} {last}" for first, last in zip(firsts, lasts, strict=False)]
    small = rng.randint(2, 6)
    slots: dict[str, object] = {
        **{"town": towns[0], "town2": towns[1], "town3": towns[2], "town4": towns[3], "river": starts[4] + "e"},
        **{"person": people[0], "person2": people[1], "person3": people[2]},
        **{"last": lasts[0], "last2": lasts[1], "last3": lasts[2], "company": f"{lasts[3]} & {rng.choice(_LAST)}"},
        **{"month": months[0], "month2": months[1], "month3": months[2], "day": days[0], "day2": days[1]},
        **{
            "small": small,
            "high": small + rng.randint(1, 20),
            "n": rng.randint(12, 95),
            "percent": rng.randint(15, 80),
        },
        **{"hundred": 10 * rng.randint(12, 90), "years": rng.randint(7, 30), "age": rng.randint(17, 30)},
        **{"hour": rng.randint(8, 11), "hour2": rng.randint(8, 11), "minute": rng.randint(10, 59)},
        **{"minute2": rng.randint(11, 40), "million": f"{rng.randint(1, 60)}.{rng.randint(1, 9)}"},
        **{"year": rng.randint(1965, 2015), "year2": rng.randint(1950, 2012)},
        **{"oldyear": rng.randint(850, 1300), "oldyear2": rng.randint(1500, 1790)},
        **{"date": f"{rng.choice(_MONTHS)} {rng.randint(1, 28)}", "job": rng.choice(JOBS), "saint": rng.choice(firsts)},
        **{"building": rng.choice(_BUILDINGS), "animals": rng.choice(_ANIMALS), "goods": rng.choice(_GOODS)},
        **{"sport": rng.choice(_SPORTS), "habit": rng.choice(_HABITS), "effect": rng.choice(_EFFECTS)},
        "goods2": rng.choice(("cloth", "paper", "glass", "soap", "matches", "rope", "buttons")),
        "place": rng.choice(("railway station", "old mill", "market square", "harbor", "school", "church")),
    }
    return slots


def story(rng: random.Random, kind: int | None = None) -> Story:
    """One story, of the given kind (an index) or of any."""
    kind = rng.randrange(len(_KINDS)) if kind is None else kind
    lines, _, questions = _KINDS[kind].strip().partition("\n= ")
    slots = _slots(rng)
    paragraphs: list[list[str]] = [[]]
    for line in lines.splitlines():
        if not line:
            paragraphs.append([])
        elif not line.startswith("?") or rng.random() < 0.7:
            text = rng.choice(line.removeprefix("?").split("|")).format(**slots)
            start = 1 if text[0] == '"' else 0
            paragraphs[-1].append(text[:start] + text[start].upper() + text[start + 1 :])
    return Story(
        kind, [" ".join(paragraph) for paragraph in paragraphs], [q.format(**slots) for q in questions.split("|")]
    )
