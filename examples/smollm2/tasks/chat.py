# ruff: noqa: E501  (one template a line)
"""Open chat in seven kinds: writing, roleplay, reasoning, coding, extraction, STEM and the humanities."""

import random
from collections.abc import Callable

from tasks.documents import Library
from tasks.stories import story
from tasks.words import CITIES, JOBS, NAMES, TOPICS, listed, pick

_FORMS = (
    "a short story|a poem|a limerick|a haiku|a song|a speech of two minutes|a blog post|a product description|"
    "a letter to the editor|a cover letter|a formal e-mail|a friendly e-mail|an invitation|a press release|a review|"
    "a dialogue between two friends|a diary entry|a persuasive essay|a newsletter|an advertisement|a fable|a scene for the stage"
)
_MANNER = (
    "||||. Keep it under 150 words|. Make it funny|. Use a warm tone|. Use simple words|. Start with a question|"
    ". End with a surprise|. Mention {city}|. Write it in the first person|. Address it to {name}|. Avoid clichés|"
    ". Use at least one metaphor|. Structure it in three paragraphs|. Give it a title"
)
_WRITING = (
    "Write {form} about {topic}{manner}.|Compose {form} on the subject of {topic}{manner}.|"
    "Can you write {form} about {topic}{manner}?|I need {form} about {topic}{manner}.|Draft {form} on {topic}{manner}.|"
    "Help me write {form} about {topic}{manner}.|Describe {topic} in the style of {form}{manner}.|"
    "Write the opening paragraph of {form} about the new {job} and {topic}{manner}.|"
    "Suggest five titles for {form} about {topic}.|Give me an outline of {form} about {topic}{manner}."
)
_ROLES = (
    "a {job} from {city}|a medieval {job}|a grumpy {job}|a very patient {job}|a retired {job} who loves {topic}|"
    "a tour guide in {city}|a pirate captain|a robot that has just been switched on|a detective in {city}|"
    "a talking tree|a sports commentator|a king who has lost his crown|an astronaut on a long flight|"
    "a time traveler from the year 2300|my personal trainer|a job interviewer|a grandmother full of stories|"
    "a cat who thinks it owns the house|a museum painting that can speak|a wizard at a job centre"
)
_ROLEPLAY = (
    "Pretend to be {role}. Tell me about {topic}.|You are {role}. I ask you: what do you think of {topic}?|"
    "Act as {role} and explain {topic} to me.|Imagine you are {role}. Describe an ordinary day.|"
    "Take the role of {role}. Someone asks you for advice about {topic}. Answer in character.|"
    "Let's play a game: you are {role} and I am {role2}. You speak first, about {topic}.|"
    "From now on you are {role}. Stay in character. Why do you care about {topic}?|"
    "Be {role}. Convince me to try {topic}.|Speak like {role} and welcome a guest to {city}."
)
_REASONING = (
    "{A} is taller than {B}, and {B} is taller than {C}. Who is the shortest? Explain.|"
    "{A} finished the race before {B} but after {C}. In which order did they arrive?|"
    "If all {x} are {y} and some {y} are {z}, does it follow that some {x} are {z}? Why or why not?|"
    "{A} says that {B} is lying. {B} says that {C} is lying. {C} says that both are lying. Who tells the truth?|"
    "{A} has a {job} for a brother, but the {job} has no brother. How can that be?|"
    "Which word does not belong: {x}, {y}, {z}, {job}? Give your reason.|"
    "What would happen if there were suddenly no {topic}? Think through the consequences.|"
    "{A} left {city} at noon heading north, then turned right twice. In which direction is {A} going now?|"
    "A box is labeled {x}, another {y}, a third both. All labels are wrong. How many do you have to open?|"
    "Give two arguments for and two against {topic}. Which are stronger?|"
    "Today is {day}. {A} was born {n} days ago. On what day of the week was that?|"
    "What comes next: {n}, {n2}, {n3}, {n4}? Explain the rule.|"
    "Is it a good idea to spend more public money on {topic}? Weigh the reasons.|"
    "{A}, {B} and {C} sit in a row. {A} does not sit next to {C}. Who sits in the middle?|"
    "If {topic} leads to less traffic in {city}, does less traffic prove that there is more of {topic}?"
)
_KINDS = listed(
    "roses|flowers|plants|birds|animals|machines|tools|chairs|cups|rivers|songs|books|stones|lamps|ships|apples"
)
_LANGUAGES = "Python|Python|Python|JavaScript|Java|C|C++|Go|Rust|SQL|Bash|TypeScript"
_PROGRAMS = listed("""
reverses a string|checks whether a word is a palindrome|counts the words in a file|finds the largest number in a list
removes duplicates from a list|computes the n-th Fibonacci number|sorts a list of names by length|merges two sorted lists
converts Celsius to Fahrenheit|validates an e-mail address|reads a CSV file and prints the mean of a column
finds all prime numbers below n|counts how often each letter occurs|flattens a nested list|rotates a matrix
implements a stack|implements a queue with two stacks|implements binary search|parses a date|generates a random password
downloads a web page|finds the longest common prefix|checks balanced brackets|computes the factorial of a number
groups words by their first letter|implements a simple calculator|draws a triangle of stars|converts a number to binary
finds the second largest value|merges two dictionaries|transposes a table|plays rock, paper, scissors|renames files in a folder
measures how long another function takes|caches the results of a slow function|finds anagrams in a list of words
computes the distance between two points|builds a linked list|traverses a binary tree|finds a missing number in a sequence
""")
_CODING = (
    "Write a function in {language} that {program}.|How do I write {language} code that {program}?|"
    "Write a {language} program that {program}, with comments.|Show me an example in {language} that {program}.|"
    "Give me two ways to write a function that {program} in {language} and compare them.|"
    "Write a unit test for a {language} function that {program}.|I am new to {language}. Explain code that {program}.|"
    "My {language} function that {program} is slow. How can I make it faster?|"
    "Explain step by step how a function that {program} works. Use {language}.|"
    "What is the time complexity of an algorithm that {program}? Give code in {language}."
)
_STEM = listed("""
photosynthesis|plate tectonics|the water cycle|Newton's second law|Ohm's law|chemical bonds|acids and bases|cell division
genetic inheritance|vaccines|antibiotics|the immune system|black holes|the phases of the moon|tides|semiconductors|lasers
radio waves|nuclear fusion|probability|the prime number theorem|derivatives of functions|logarithms|the Pythagorean theorem|standard deviation
neural networks|encryption|hash functions|sorting algorithms|operating systems|the internet protocol|GPS|batteries
electric motors|jet engines|bridges|concrete|steel|plastics|fermentation|soil bacteria|food chains|climate models|ozone
""")
_HUMANITIES = listed("""
the Silk Road|the Roman Republic|the printing press|the Enlightenment|the Ottoman Empire|feudalism|the Hanseatic League
the Bauhaus|impressionism|baroque music|jazz|Greek tragedy|the sonnet|magical realism|existentialism|stoicism|utilitarianism
free will|the social contract|human rights|the suffrage movement|decolonization|apartheid|the welfare state|inflation
trade unions|free trade|nationalism|oral traditions|cave paintings|hieroglyphs|the Maya calendar|samurai culture|Buddhism
medieval guilds|the history of chess|the origin of money|gothic cathedrals|the novel|documentary film|world fairs
""")
_EXPLAIN = (
    "Explain {x} in simple terms.|Why does {x} matter?|What is meant by {x}?|Describe {x} to a beginner.|"
    "What are common misunderstandings about {x}?|Give an everyday example of {x}.|Compare {x} and {y}.|"
    "How has our understanding of {x} changed over time?|Write a short lecture on {x}.|Tell me three facts about {x}.|"
    "How would you teach {x} to school children?|What questions about {x} are still open?|"
    "What is the connection between {x} and {y}?|Give me a list of key terms on {x} with one-line definitions.|"
    "Write five quiz questions about {x} with answers.|How does {x} affect daily life?|Discuss {x} in two paragraphs."
)
_EXTRACT = (
    "List all names and places in the text.|Extract the key facts as a numbered list.|What are the topics of this text?|"
    "Return the main points as JSON with the keys topic, audience and points.|Find all numbers in the text.|"
    "Give three keywords for this text.|Make a table with two columns, subject and statement.|"
    "Which advice does the author give? Quote the sentences.|Write five questions that this text answers.|"
    "What is the tone of this text?|Rewrite this text in simpler words.|Rewrite it as an e-mail.|"
    "Correct the mistakes in this text.|Shorten each sentence.|Turn it into a bulleted list.|Make the text more formal.|"
    "Rewrite this text for children.|Continue the text.|Give the text a headline.|Rewrite it in the first person."
)
_RECORDS = (
    "{A} ({n} years, {job}) lives in {city}. {B} ({n2}, {job2}) moved from {city2} to {city} last {day}. {C} works as a "
    "{job3} and is interested in {topic}.|"
    "Order {n}{n2}: 3 books for {A}, {city}. Order {n3}{n4}: 1 lamp for {B}, {city2}. Order {n2}{n3}: 2 chairs for {C}, {city}, "
    "to be delivered on {day}.|"
    "Dear {A}, the meeting on {topic} is moved from {day} to Friday, {n} o'clock, room {n2}. Please tell {B} and {C} in "
    "{city}. Regards, the {job}|"
    "{city}: {n} degrees, rain. {city2}: {n2} degrees, sunny. {A} reports {n3} mm of rain and {B} winds of {n4} km/h on {day}."
)
_RECORD_ASK = (
    "Extract the names.|Return the data as JSON.|Put this into a table.|Which cities are mentioned?|Write it as CSV lines.|"
    "List every person with what is known about them.|Which numbers occur and what do they stand for?|Summarize it in a line."
)


def _slots(rng: random.Random) -> dict[str, object]:
    A, B, C = rng.sample(NAMES, 3)
    city, city2 = rng.sample(CITIES, 2)
    job, job2, job3 = rng.sample(JOBS, 3)
    topic = rng.choice(TOPICS)
    x, y, z = rng.sample(_KINDS, 3)
    n, step = rng.randint(3, 24), rng.randint(2, 9)
    roles = [pick(rng, _ROLES).format(job=rng.choice(JOBS), city=city, topic=rng.choice(TOPICS)) for _ in range(2)]
    manner = pick(rng, _MANNER).format(city=city, name=A)
    day = pick(rng, "Monday|Tuesday|Wednesday|Thursday|Sunday")
    return {
        **{"A": A, "B": B, "C": C, "city": city, "city2": city2, "job": job, "job2": job2, "job3": job3},
        **{"topic": topic, "x": x, "y": y, "z": z, "n": n, "n2": n + step, "n3": n + 2 * step, "n4": n + 3 * step},
        **{"role": roles[0], "role2": roles[1], "form": pick(rng, _FORMS), "manner": manner, "day": day},
    }


def _from(templates: str) -> Callable[[random.Random, Library], str]:
    return lambda rng, library: pick(rng, templates).format(**_slots(rng))


def _coding(rng: random.Random, library: Library) -> str:
    return pick(rng, _CODING).format(language=pick(rng, _LANGUAGES), program=rng.choice(_PROGRAMS))


def _explain(concepts: list[str]) -> Callable[[random.Random, Library], str]:
    def ask(rng: random.Random, library: Library) -> str:
        x, y = rng.sample(concepts, 2)
        return pick(rng, _EXPLAIN).format(x=x, y=y)

    return ask


def _extraction(rng: random.Random, library: Library) -> str:
    if rng.random() < 0.35:
        text, ask = pick(rng, _RECORDS).format(**_slots(rng)), pick(rng, _RECORD_ASK)
    else:
        invented = not library.documents or rng.random() < 0.4
        paragraphs = (story(rng) if invented else rng.choice(library.documents)).paragraphs
        text, ask = "\n".join(paragraphs[: rng.randint(1, 5)]), pick(rng, _EXTRACT)
    return rng.choice((f"{ask}\n\n{text}", f"{text}\n\n{ask}", f'{ask}\n"{text}"', f"Text: {text}\n\nTask: {ask}"))


_CHAT_KINDS: list[Callable[[random.Random, Library], str]] = [
    _from(_WRITING),
    _from(_ROLEPLAY),
    _from(_REASONING),
    _coding,
    _extraction,
    _explain(_STEM),
    _explain(_HUMANITIES),
]


def prompt(rng: random.Random, library: Library) -> str:
    return rng.choice(_CHAT_KINDS)(rng, library)
