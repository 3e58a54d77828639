"""Translation into English: mostly from German, some from French and Spanish, one to four sentences."""

import random

from tasks import german, romance
from tasks.words import pick

_ASK = (
    "Translate {language} to English:|Translate the following {language} sentence into English.|"
    "Translate from {language} into English:|Please translate this into English.|Translate to English:|"
    "What does this {language} text mean in English?|How do you say this in English?|"
    "Give the English translation of the {language} text.|Can you translate this from {language} to English?|"
    "English translation, please:|Translate this {language} text.|I don't speak {language}. What does this say?|"
    "You are a translator. Translate into English.|Render the following {language} text in natural English.|"
    "Translate the text below from {language} to English and give only the translation.|translate to english"
)
_FRAMES = (
    "{ask} {text}|{ask}\n{text}|{ask}\n\n{text}|{text}\n\n{ask}|{ask}\n\n{language}: {text}\nEnglish:|"
    "{language}: {text}\nEnglish:|"
    '{ask} "{text}"|{ask}\n\n{text}\n\nTranslation:|Source ({language}): {text}\nTarget (English):|{ask}\n\n"{text}"'
)


def prompt(rng: random.Random) -> str:
    language = rng.choices(("German", "French", "Spanish"), weights=(74, 13, 13))[0]
    number = rng.choices((1, 2, 3, 4), weights=(55, 25, 12, 8))[0]
    if language == "German":
        sentences = [german.sentence(rng) for _ in range(number)]
    else:
        sentences = [romance.sentence(rng, language) for _ in range(number)]
    ask = pick(rng, _ASK).format(language=language)
    return pick(rng, _FRAMES).format(ask=ask, text=" ".join(sentences), language=language)
