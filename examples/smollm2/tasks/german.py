# ruff: noqa: E501  (one template a line)
"""German sentences: templates and nouns, with articles, adjectives and cases that agree."""

import copy
import random

from tasks.words import listed

_CASES = ("nom", "akk", "dat", "gen")
# By gender, then case: the definite article, the endings of ein- and dies-, those of adjectives after them.
_DER = {
    "m": ("der", "den", "dem", "des"),
    "f": ("die", "die", "der", "der"),
    "n": ("das", "das", "dem", "des"),
    "pl": ("die", "die", "den", "der"),
}
_EIN = {"m": ("", "en", "em", "es"), "f": ("e", "e", "er", "er"), "n": ("", "", "em", "es")}
_DIES = {"m": ("er", "en", "em", "es"), "f": ("e", "e", "er", "er"), "n": ("es", "es", "em", "es")}
_WEAK = {"m": ("e", "en", "en", "en"), "f": ("e", "e", "en", "en"), "n": ("e", "e", "en", "en"), "pl": ("en",) * 4}
_MIXED = {"m": ("er", "en", "en", "en"), "f": ("e", "e", "en", "en"), "n": ("es", "es", "en", "en")}


class Noun:
    """A noun with an optional adjective; its format specification is determiner and case, as in `{org:der.gen}`.

    Determiners: der, dies, ein, kein, mein, unser, ihr, sein, and pl (the definite article of the plural).
    """

    def __init__(self, line: str) -> None:
        self.gender, self.singular, genitive, plural = line.split()
        self.genitive = self.singular if genitive == "-" else self.singular + genitive
        self.plural = plural
        self.adjective = ""

    def with_adjective(self, stem: str) -> "Noun":
        noun = copy.copy(self)
        noun.adjective = stem
        return noun

    def __format__(self, specification: str) -> str:
        determiner, case_name = specification.split(".")
        case = _CASES.index(case_name)
        if determiner == "pl":
            article, ending = _DER["pl"][case], _WEAK["pl"][case]
            noun = self.plural + ("n" if case == 2 and self.plural[-1] not in "ns" else "")
        else:
            noun = self.genitive if case == 3 else self.singular
            ending = _WEAK[self.gender][case]
            if determiner == "der":
                article = _DER[self.gender][case]
            elif determiner == "dies":
                article = determiner + _DIES[self.gender][case]
            else:
                article, ending = determiner + _EIN[self.gender][case], _MIXED[self.gender][case]
        return f"{article} {self.adjective}{ending} {noun}" if self.adjective else f"{article} {noun}"


def _nouns(text: str) -> list[Noun]:
    return [Noun(line) for line in listed(text)]


# gender, singular, what the genitive adds ("-" nothing), plural
_PEOPLE = _nouns("""m Minister s Minister|f Ministerin - Ministerinnen|m Bürgermeister s Bürgermeister|m Trainer s Trainer
f Bürgermeisterin - Bürgermeisterinnen|m Sprecher s Sprecher|f Sprecherin - Sprecherinnen|m Lehrer s Lehrer
f Lehrerin - Lehrerinnen|m Arzt es Ärzte|f Ärztin - Ärztinnen|m Forscher s Forscher|f Forscherin - Forscherinnen
f Nachbarin - Nachbarinnen|m Chef s Chefs|f Chefin - Chefinnen|m Richter s Richter|f Richterin - Richterinnen
m Verkäufer s Verkäufer|f Verkäuferin - Verkäuferinnen|m Besitzer s Besitzer|m Fahrer s Fahrer|f Fahrerin - Fahrerinnen
f Botschafterin - Botschafterinnen|m Freund es Freunde|f Freundin - Freundinnen|f Autorin - Autorinnen
m Künstler s Künstler|f Kundin - Kundinnen|m Schüler s Schüler|f Schülerin - Schülerinnen|f Kollegin - Kolleginnen""")
_ORGS = _nouns("""f Regierung - Regierungen|n Unternehmen s Unternehmen|f Stadt - Städte|m Verein s Vereine|f Bank - Banken
f Universität - Universitäten|f Gewerkschaft - Gewerkschaften|n Gericht s Gerichte|n Ministerium s Ministerien
m Konzern s Konzerne|n Krankenhaus es Krankenhäuser|f Feuerwehr - Feuerwehren|n Museum s Museen|f Partei - Parteien
f Behörde - Behörden|m Verband s Verbände|f Fluggesellschaft - Fluggesellschaften|n Theater s Theater|f Schule - Schulen
f Gemeinde - Gemeinden|f Kommission - Kommissionen|n Institut s Institute|f Firma - Firmen|m Verlag s Verlage""")
_FIRMS = [noun for noun in _ORGS if noun.singular in listed("Unternehmen|Bank|Konzern|Fluggesellschaft|Firma|Verlag")]
_PLANS = _nouns("""m Vertrag s Verträge|m Vorschlag s Vorschläge|m Plan s Pläne|n Gesetz es Gesetze|f Reform - Reformen
m Haushalt s Haushalte|n Projekt s Projekte|m Bericht s Berichte|f Entscheidung - Entscheidungen|n Abkommen s Abkommen
f Kampagne - Kampagnen|f Untersuchung - Untersuchungen|f Strategie - Strategien|n Programm s Programme|n Verbot s Verbote
f Studie - Studien|f Regelung - Regelungen|n Angebot s Angebote|m Antrag s Anträge|f Zusammenarbeit - Zusammenarbeiten""")
_BUILT = _nouns("""f Brücke - Brücken|m Bahnhof s Bahnhöfe|n Rathaus es Rathäuser|m Flughafen s Flughäfen|f Fabrik - Fabriken
n Schwimmbad s Schwimmbäder|f Bibliothek - Bibliotheken|m Spielplatz es Spielplätze|f Halle - Hallen|n Stadion s Stadien
m Radweg s Radwege|f Straße - Straßen|m Tunnel s Tunnel|n Kraftwerk s Kraftwerke|f Kirche - Kirchen|m Markt s Märkte""")
_THINGS = _nouns("""n Auto s Autos|n Fahrrad s Fahrräder|n Buch es Bücher|m Schlüssel s Schlüssel|f Tasche - Taschen
m Brief es Briefe|f Lampe - Lampen|m Computer s Computer|f Jacke - Jacken|m Koffer s Koffer
m Tisch es Tische|f Uhr - Uhren|n Bild es Bilder|m Regenschirm s Regenschirme|f Kamera - Kameras|n Paket s Pakete
m Stuhl s Stühle|f Decke - Decken|n Telefon s Telefone|m Teppich s Teppiche|f Gitarre - Gitarren""")
_ADJECTIVES = {
    "people": listed("jung|erfahren|neu|bekannt|freundlich|ehemalig|zuständig"),
    "orgs": listed("groß|klein|neu|bekannt|örtlich|zuständig"),
    "plans": listed("neu|wichtig|umstritten|geplant|gemeinsam|langfristig|ehrgeizig"),
    "built": listed("neu|alt|modern|beliebt|beschädigt|geplant"),
    "things": listed("neu|alt|klein|groß|schön|schwer|blau|rot|billig|kaputt"),
}
_PLACE = listed("""in Hamburg|in München|in Köln|in Leipzig|in Stuttgart|in Wien|in Zürich|in Dresden|in Bremen|in der Innenstadt
am Hauptbahnhof|im Norden des Landes|in der Nähe von Frankfurt|an der Küste|auf dem Land|in mehreren Städten|im Ausland
im Süden Bayerns|im ganzen Land|am Rande der Stadt""")
_PAST = listed("""am Montag|am Dienstag|am Mittwochabend|am Donnerstag|am Freitagmorgen|am Wochenende|gestern|vor zwei Tagen
in der vergangenen Woche|im vergangenen Jahr|vor drei Monaten|Anfang März|Ende September|im letzten Sommer
heute Morgen|vor kurzem""")
_FUTURE = listed("""morgen|nächste Woche|im kommenden Jahr|bald|im Frühling|in zwei Monaten|bis Ende des Jahres|ab Januar
in den nächsten Tagen|noch in diesem Monat|spätestens im Herbst""")
_PLURALS = listed("""Arbeitslosen|Touristen|Einwohner|Unfälle|Studierenden|Kunden|Elektroautos|Besucher|Wohnungen|Anfragen
Beschäftigten|Einbrüche|Geburten|Krankheitsfälle|Fahrgäste|Mitglieder""")
_SOON = listed("morgen|übermorgen|am Wochenende|am Samstag|nächste Woche|heute Abend|am Sonntag")
_VERB_PLAN = listed(
    "ablehnen|unterstützen|prüfen|überarbeiten|verschieben|vorstellen|finanzieren|kritisieren|verteidigen"
)
_VERB_ZU = listed("unterstützen|prüfen|überarbeiten|verschieben|finanzieren|verteidigen|verbessern")
_PART_PLAN = listed(
    "abgelehnt|unterstützt|geprüft|überarbeitet|verschoben|vorgestellt|beschlossen|kritisiert|verteidigt"
)
_PART_THING = listed("gekauft|verkauft|gefunden|verloren|vergessen|bestellt|gesucht|repariert|mitgebracht|verschenkt")
_VERB_THING = listed("kaufen|verkaufen|finden|bestellen|reparieren|mitbringen|abholen|verschenken|bezahlen")
_WEATHER = listed("Regen|Schnee|Nebel|Sturm|Sonnenschein|Gewitter|starken Wind|Hagel")
_LEISURE = listed("""ins Kino gehen|im See schwimmen|eine Radtour machen|zu Hause bleiben|Freunde besuchen|im Garten arbeiten
ein Museum besuchen|früh ins Bett gehen|in den Bergen wandern|zusammen kochen|Tennis spielen""")
_FIRST = listed(
    "Anna|Lukas|Sophie|Max|Julia|Felix|Laura|Paul|Katrin|Jan|Marie|Tobias|Herr Weber|Frau Schulz|Frau Becker"
)

_TEMPLATES = """
{org:der.nom} will {plan:ein.akk} {future} vorstellen.
{past} kündigte {org:der.nom} an, {plan:der.akk} zu überarbeiten.
{person:der.nom} sagte {past} {place}, dass {plan:der.nom} noch nicht fertig sei.
Nach Angaben {org:der.gen} stieg die Zahl der {plural} um {n} Prozent.
Weil {plan:der.nom} zu viel Geld kostet, hat {org:der.nom} {built:der.akk} noch nicht gebaut.
{org:der.nom} hat {plan:der.akk} {past} {part_plan}.
Obwohl {person:der.nom} {plan:der.akk} unterstützt, ist die Mehrheit dagegen.
{place} soll {future} {built:ein.nom} gebaut werden.
{built:der.nom} {place} wird {future} geschlossen, weil es an Geld fehlt.
{org:der.nom} und {org2:der.nom} haben sich {past} auf {plan:ein.akk} geeinigt.
Die Kosten für {built:der.akk} sind auf {n} Millionen Euro gestiegen.
Wegen {built:ein.gen} kam es {past} {place} zu langen Staus.
Es ist nicht klar, ob {org:der.nom} {plan:der.akk} {future} {verb_plan} wird.
{person:der.nom} forderte {org:der.akk} auf, {plan:der.akk} zu {verb_zu}.
Trotz {plan:der.gen} ist die Zahl der {plural} {place} weiter gesunken.
„Wir müssen {plan:dies.akk} ernst nehmen“, sagte {person:der.nom} {past}.
„{plan:unser.nom} ist ein wichtiger Schritt“, erklärte {person:der.nom} {org:der.gen}.
Bei einem Brand {place} wurde {past} {built:ein.nom} schwer beschädigt.
Die Polizei sucht {person:ein.akk}, {rel_nom} {past} {place} den Unfall gesehen hat.
Im Streit um {plan:der.akk} hat {person:der.nom} {past} eine Lösung vorgeschlagen.
{person:der.nom}, mit {rel_dat} wir {past} gesprochen haben, arbeitet seit {n} Jahren für {org:der.akk}.
{n} Menschen haben {past} {place} gegen {plan:der.akk} demonstriert.
Laut einer Umfrage sind {n} Prozent der Befragten mit {org:der.dat} unzufrieden.
Seit {year} hat {org:der.nom} mehr als {n} neue Stellen geschaffen.
{firm:der.nom} rechnet für das laufende Jahr mit einem Gewinn von {n} Millionen Euro.
Der Umsatz {firm:der.gen} ging {past} um {n} Prozent zurück.
Die Aktie {firm:der.gen} verlor {past} mehr als {n} Prozent an Wert.
{org:der.nom} hat {plan:der.akk} mit {org2:der.dat} {past} unterschrieben.
Ohne {plan:der.akk} kann {org:der.nom} {built:der.akk} nicht bezahlen.
{past} besuchte {person:der.nom} {built:der.akk} {place} und sprach mit {person2:pl.dat}.
{person:pl.nom} verlangen, dass {org:der.nom} {plan:der.akk} zurückzieht.
Nachdem {org:der.nom} {plan:der.akk} {part_plan} hatte, trat {person:der.nom} zurück.
Für {person:pl.akk} bedeutet {plan:der.nom} vor allem mehr Arbeit.
Ob {plan:der.nom} wirklich hilft, wird sich erst im kommenden Jahr zeigen.
{person:der.nom} bestätigte {past}, dass es {place} {n} Verletzte gab.
{first} hat {thing:mein.akk} {past} {part_thing}.
Hast du {thing:mein.akk} gesehen?
Ich habe {thing:der.akk} {past} {place} {part_thing}.
Können Sie mir bitte sagen, wo ich {thing:ein.akk} {verb_thing} kann?
{first} möchte {thing:ein.akk} {verb_thing}, aber {thing2:der.nom} ist wichtiger.
Wenn {first} {thing:der.akk} nicht findet, müssen wir {soon} {thing2:ein.akk} {verb_thing}.
{thing:der.nom} liegt neben {thing2:der.dat}.
{thing:dies.nom} gehört {person:ein.dat} {place}.
Meine Schwester hat {person:der.dat} {thing:ein.akk} geschenkt.
Mein Bruder braucht {thing:ein.akk}, weil {thing2:sein.nom} kaputt ist.
Ohne {thing:mein.akk} gehe ich nicht aus dem Haus.
{thing:der.nom} kostet {n} Euro, das ist mir zu teuer.
Vergiss nicht, {thing:der.akk} mitzunehmen, wenn du {soon} zu uns kommst!
Ich warte seit {n} Minuten auf {person:der.akk}.
{person:unser.nom} hat uns {past} von {thing:ein.dat} erzählt.
Wie viel hat {thing:dies.nom} gekostet?
Wem gehört {thing:der.nom}, {rel_thing} {past} hier gelegen hat?
Der Zug nach {city} hat heute {n} Minuten Verspätung.
Entschuldigung, wie komme ich am schnellsten zu {built:der.dat}?
Wir haben ein Zimmer für zwei Personen und {small} Nächte reserviert.
Unser Hotel liegt nur wenige Minuten von {built:der.dat} entfernt.
Der nächste Bus nach {city} fährt in {n} Minuten ab.
{first} ist {past} mit dem Zug nach {city} gefahren, um {person:ein.akk} zu besuchen.
Wer nach {city} reist, sollte unbedingt {built:der.akk} besuchen.
Das Frühstück ist im Preis inbegriffen und wird bis zehn Uhr serviert, sagte {person:der.nom}.
Leider wurde unser Flug nach {city} gestrichen, deshalb mussten wir {small} Stunden warten.
{soon} fliegen {first} und {first2} für {small} Tage nach {city}.
Ich hätte gern einen Tisch für vier Personen, {soon} um {hour} Uhr.
Am Nachmittag gibt es {place} {weather}.
{past} fiel {place} so viel Schnee, dass {n} Schulen geschlossen blieben.
Die Temperaturen steigen {soon} auf {degrees} Grad, und es bleibt trocken.
Wenn es {soon} nicht regnet, wollen {first} und ich {leisure}.
Wegen des schlechten Wetters konnten wir nicht wie geplant {leisure}.
Der Wetterdienst warnt für die kommende Nacht vor Glätte {place}.
{first} wollte eigentlich {leisure}, aber dann rief {person:unser.nom} an.
Statt zu arbeiten, möchte ich heute lieber {leisure}.
Nach der Arbeit werden wir {leisure}, wenn wir nicht zu müde sind.
Als {first} noch ein Kind war, gab es {place} {built:kein.akk}.
{first} fragt, ob wir {soon} {leisure} wollen.
Je länger {person:der.nom} wartet, desto teurer wird {plan:der.nom}.
Der Film beginnt um {hour} Uhr, aber {first} kommt wie immer zu spät.
{first} lernt seit {n} Monaten Deutsch und versteht schon {person:der.akk} im Radio.
Der Vorstand {firm:der.gen} trifft sich {future} in {city}, um über {plan:der.akk} zu sprechen.
Die Mannschaft gewann {past} das Spiel in {city} mit {small} zu {smaller}.
{person:der.nom} verpasste {past} wegen einer Verletzung das Finale in {city}.
Das Buch, das {first} {past} gelesen hat, handelt von {person:ein.dat} und {thing:ein.dat}.
In {city} leben heute mehr als {n}.000 Menschen, doppelt so viele wie vor {small} Jahrzehnten.
Forscher haben herausgefunden, dass {n} Prozent der Kinder zu wenig schlafen, berichtet {org:der.nom}.
""".strip().splitlines()
_CITY = listed("Berlin|Paris|Rom|Wien|Prag|Madrid|Warschau|Kopenhagen|Brüssel|London|Budapest|Lissabon|Salzburg|Basel")
_RELATIVE = {"m": ("der", "dem"), "f": ("die", "der"), "n": ("das", "dem")}
_CONTRACTED = (("zu dem ", "zum "), ("zu der ", "zur "), ("von dem ", "vom "))


def _noun(rng: random.Random, nouns: list[Noun], kind: str) -> Noun:
    return rng.choice(nouns).with_adjective(rng.choice(_ADJECTIVES[kind]) if rng.random() < 0.4 else "")


def sentence(rng: random.Random) -> str:
    person = _noun(rng, _PEOPLE, "people")
    thing, thing2 = _noun(rng, _THINGS, "things"), _noun(rng, _THINGS, "things")
    while thing2.singular == thing.singular:
        thing2 = _noun(rng, _THINGS, "things")
    org, org2 = rng.sample(_ORGS, 2)
    first, first2 = rng.sample(_FIRST, 2)
    small = rng.randint(2, 9)
    text = rng.choice(_TEMPLATES).format(
        person=person,
        person2=_noun(rng, _PEOPLE, "people"),
        rel_nom=_RELATIVE[person.gender][0],
        rel_dat=_RELATIVE[person.gender][1],
        org=org.with_adjective(rng.choice(_ADJECTIVES["orgs"]) if rng.random() < 0.3 else ""),
        org2=org2,
        firm=rng.choice(_FIRMS),
        plan=_noun(rng, _PLANS, "plans"),
        built=_noun(rng, _BUILT, "built"),
        thing=thing,
        thing2=thing2,
        rel_thing=_RELATIVE[thing.gender][0],
        place=rng.choice(_PLACE),
        past=rng.choice(_PAST),
        future=rng.choice(_FUTURE),
        soon=rng.choice(_SOON),
        plural=rng.choice(_PLURALS),
        verb_plan=rng.choice(_VERB_PLAN),
        verb_zu=rng.choice(_VERB_ZU),
        part_plan=rng.choice(_PART_PLAN),
        part_thing=rng.choice(_PART_THING),
        verb_thing=rng.choice(_VERB_THING),
        weather=rng.choice(_WEATHER),
        leisure=rng.choice(_LEISURE),
        first=first,
        first2=first2,
        city=rng.choice(_CITY),
        n=rng.randint(3, 95),
        small=small,
        smaller=rng.randrange(small),
        degrees=rng.randint(8, 33),
        hour=rng.randint(10, 22),
        year=rng.randint(1995, 2023),
    )
    for full, contracted in _CONTRACTED:
        text = text.replace(full, contracted)
    # A sentence in quotation marks begins after the mark.
    start = 1 if text[0] == "„" else 0
    return text[:start] + text[start].upper() + text[start + 1 :]
