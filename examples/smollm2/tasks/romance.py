# ruff: noqa: E501  (one template a line)
"""French and Spanish sentences: templates and nouns, with articles, contractions and adjectives that agree."""

import random

from tasks.words import listed

# gender, noun; French first, Spanish below. {x:le} is le/la/l', {x:un} un/une, {x:de} du/de la/de l', {x:a} au/à la/à l'.
_FRENCH_ARTICLES = {
    "le": ("le ", "la ", "l'", "l'"),
    "un": ("un ", "une ", "un ", "une "),
    "de": ("du ", "de la ", "de l'", "de l'"),
    "a": ("au ", "à la ", "à l'", "à l'"),
    "ce": ("ce ", "cette ", "cet ", "cette "),
}
_SPANISH_ARTICLES = {
    "le": ("el ", "la "),
    "un": ("un ", "una "),
    "de": ("del ", "de la "),
    "a": ("al ", "a la "),
    "ce": ("este ", "esta "),
}


class Noun:
    """A noun whose format specification is an article, with an optional adjective (masculine, feminine) behind it."""

    def __init__(self, line: str, language: str) -> None:
        self.gender, self.word = line.split(" ", 1)
        self.language = language
        self.adjective = ""

    def __format__(self, article: str) -> str:
        index = "mf".index(self.gender)
        if self.language == "French":
            index += 2 * (self.word[0] in "aeiouhéèê")
            return _FRENCH_ARTICLES[article][index] + self.word + self.adjective
        return _SPANISH_ARTICLES[article][index] + self.word + self.adjective


_FRENCH = {
    "person": """m ministre|f ministre|m maire|f directrice|m directeur|m médecin|f voisine|m voisin|f avocate|m avocat
f chercheuse|m chercheur|f journaliste|m professeur|f présidente|m président|f entraîneuse|m entraîneur|f étudiante""",
    "org": """m gouvernement|f mairie|f entreprise|f université|m musée|m hôpital|m syndicat|f banque|m tribunal|f école
f commission|f police|m parti|f association|m festival|f région|m théâtre""",
    "plan": """m projet|f réforme|m budget|m rapport|f loi|f décision|m accord|f enquête|m plan|f proposition|f étude""",
    "built": """m pont|f gare|m aéroport|f usine|f bibliothèque|f piscine|m stade|m tunnel|m marché|f église|m tramway""",
    "thing": """f voiture|m vélo|m livre|f clé|m sac|f lampe|m ordinateur|f veste|f valise|f montre|m tableau|m parapluie""",
}
_SPANISH = {
    "person": """m ministro|f ministra|m alcalde|f alcaldesa|m médico|f médica|f vecina|m vecino|f abogada|m abogado
f investigadora|m investigador|m profesor|f profesora|f presidenta|m director|f directora|m entrenador|f estudiante""",
    "org": """m gobierno|m ayuntamiento|f empresa|f universidad|m museo|m hospital|m sindicato|m banco|m tribunal|f escuela
f comisión|f policía|m partido|f asociación|m festival|f región|m teatro""",
    "plan": """m proyecto|f reforma|m presupuesto|m informe|f ley|f decisión|m acuerdo|f investigación|m plan|f propuesta""",
    "built": """m puente|f estación|m aeropuerto|f fábrica|f biblioteca|f piscina|m estadio|m túnel|m mercado|f iglesia""",
    "thing": """m coche|f bicicleta|m libro|f llave|m bolso|f lámpara|m ordenador|f chaqueta|f maleta|m reloj|m cuadro""",
}
_FRENCH_ADJECTIVES = {
    "plan": "important/importante|européen/européenne|commun/commune|récent/récente|difficile/difficile",
    "thing": "rouge/rouge|noir/noire|bleu/bleue|neuf/neuve|vert/verte",
    "built": "moderne/moderne|municipal/municipale|abandonné/abandonnée",
}
_SPANISH_ADJECTIVES = {
    "plan": "importante/importante|europeo/europea|común/común|reciente/reciente|difícil/difícil",
    "thing": "rojo/roja|negro/negra|azul/azul|nuevo/nueva|verde/verde",
    "built": "moderno/moderna|municipal/municipal|abandonado/abandonada",
}
_FRENCH_WORDS = {
    "past": "hier|lundi|mardi dernier|la semaine dernière|il y a trois jours|en mars|l'année dernière|ce matin",
    "future": "demain|la semaine prochaine|l'année prochaine|bientôt|avant la fin de l'année|dans deux mois",
    "place": "à Lyon|à Marseille|dans le nord du pays|en banlieue|au centre de la ville|à Bruxelles|près de Bordeaux",
    "verb": "présenter|soutenir|modifier|financer|reporter|examiner|défendre|critiquer",
    "leisure": "aller au cinéma|nager dans la mer|lire un roman|se promener en forêt|cuisiner|visiter un musée",
    "first": "Camille|Julien|Sophie|Antoine|Claire|Hugo|Élise|Martin|Nadia|Thomas",
    "city": "Paris|Genève|Lille|Nantes|Toulouse|Strasbourg|Montréal|Rome|Berlin",
}
_SPANISH_WORDS = {
    "past": "ayer|el lunes|el martes pasado|la semana pasada|hace tres días|en marzo|el año pasado|esta mañana",
    "future": "mañana|la próxima semana|el próximo año|pronto|antes de fin de año|dentro de dos meses",
    "place": "en Sevilla|en Valencia|en el norte del país|en las afueras|en el centro de la ciudad|en Bogotá|cerca de Bilbao",
    "verb": "presentar|apoyar|modificar|financiar|aplazar|examinar|defender|criticar",
    "leisure": "ir al cine|nadar en el mar|leer una novela|pasear por el bosque|cocinar juntos|visitar un museo",
    "first": "Lucía|Javier|Carmen|Pablo|Elena|Diego|Marta|Andrés|Sofía|Miguel",
    "city": "Madrid|Barcelona|Lima|Granada|Buenos Aires|Zaragoza|Roma|Berlín|Lisboa",
}
_FRENCH_TEMPLATES = """
{org:le} va {verb} {plan:un} {future}.
{past}, {person:le} a annoncé que {plan:le} coûterait {n} millions d'euros.
Selon {org:le}, le nombre de visiteurs a augmenté de {n} % {place}.
{person:le} {org:de} a refusé de {verb} {plan:le}.
Plusieurs habitants ont protesté {past} contre {plan:le} {place}.
{org:le} construira {built:un} {place} {future}.
La fermeture {built:de} a provoqué de longs embouteillages {place}.
« {plan:ce} est nécessaire », a déclaré {person:le} {past}.
Si {org:le} ne change pas d'avis, {person:le} quittera la commission.
Personne ne sait si {org:le} pourra {verb} {plan:le} {future}.
{first} a oublié {thing:le} dans le train pour {city}.
Je cherche {thing:un} depuis {n} jours, mais tout est trop cher.
Est-ce que tu as vu {thing:le} que {first} a acheté {past} ?
Combien coûte {thing:ce} ?
{first} voudrait {leisure}, mais il pleut depuis ce matin.
Après le travail, nous aimons {leisure}.
Le train pour {city} part dans {n} minutes.
Pour aller {built:a}, prenez la deuxième rue à gauche.
{person:le} travaille {place} depuis {n} ans.
Il fera {n2} degrés {future} et le ciel restera couvert.
{first} et {first2} passeront {n2} jours à {city} pour {leisure}.
Avant de partir, {person:le} a donné {thing:un} à {first}.
L'équipe a perdu le match {past} à {city} devant {n}.000 spectateurs.
Les travaux {built:de} devraient durer {n2} mois, a précisé {org:le}.
""".strip().splitlines()
_SPANISH_TEMPLATES = """
{org:le} va a {verb} {plan:un} {future}.
{past}, {person:le} anunció que {plan:le} costaría {n} millones de euros.
Según {org:le}, el número de visitantes aumentó un {n} % {place}.
{person:le} {org:de} se negó a {verb} {plan:le}.
Muchos vecinos protestaron {past} contra {plan:le} {place}.
{org:le} construirá {built:un} {place} {future}.
El cierre {built:de} provocó largos atascos {place}.
«{plan:ce} es muy necesario para todos», declaró {person:le} {past}.
Si {org:le} no cambia de opinión, {person:le} dejará la comisión.
Nadie sabe si {org:le} podrá {verb} {plan:le} {future}.
{first} olvidó {thing:le} en el tren a {city}.
Busco {thing:un} desde hace {n} días, pero todo es demasiado caro.
¿Has visto {thing:le} que {first} compró {past}?
¿Cuánto cuesta {thing:ce}?
{first} quiere {leisure}, pero llueve desde esta mañana.
Después del trabajo nos gusta {leisure}.
El tren a {city} sale en {n} minutos.
Para ir {built:a}, tome la segunda calle a la izquierda.
{person:le} trabaja {place} desde hace {n} años.
Habrá {n2} grados {future} y el cielo seguirá nublado.
{first} y {first2} pasarán {n2} días en {city} para {leisure}.
Antes de salir, {person:le} le dio {thing:un} a {first}.
El equipo perdió el partido {past} en {city} ante {n}.000 espectadores.
Las obras {built:de} durarán {n2} meses, según {org:le}.
""".strip().splitlines()


def sentence(rng: random.Random, language: str) -> str:
    """A sentence in "French" or "Spanish"."""
    french = language == "French"
    adjectives = _FRENCH_ADJECTIVES if french else _SPANISH_ADJECTIVES
    slots: dict[str, object] = {"n": rng.randint(12, 95), "n2": rng.randint(5, 30)}
    for kind, text in (_FRENCH if french else _SPANISH).items():
        noun = Noun(rng.choice(listed(text)), language)
        if kind in adjectives and rng.random() < 0.4:
            pair = rng.choice(adjectives[kind].split("|")).split("/")
            noun.adjective = " " + pair["mf".index(noun.gender)]
        slots[kind] = noun
    words = _FRENCH_WORDS if french else _SPANISH_WORDS
    slots |= {kind: rng.choice(text.split("|")) for kind, text in words.items()}
    slots["first2"] = rng.choice([name for name in words["first"].split("|") if name != slots["first"]])
    result = rng.choice(_FRENCH_TEMPLATES if french else _SPANISH_TEMPLATES).format(**slots)
    start = next(i for i, letter in enumerate(result) if letter.isalpha())
    return result[:start] + result[start].upper() + result[start + 1 :]
