"""Word lists that several tasks draw from."""

import random


def listed(text: str) -> list[str]:
    """The items of a list written with "|" and line breaks between them."""
    return [item for item in text.replace("\n", "|").split("|") if item]


NAMES = listed("""
Aisha|Alma|Amir|Anton|Bea|Boris|Camila|Carlos|Chen|Clara|Dario|Daphne|Dmitri|Elena|Emeka|Esther|Farid|Fiona
Gita|Hugo|Ines|Ivan|Jamal|Jana|Jonas|Kavya|Keiko|Lars|Leila|Liam|Lucia|Malik|Marta|Mateo|Mina|Nadia|Nils|Noor
Olga|Omar|Paula|Pedro|Petra|Priya|Quinn|Rafael|Rosa|Ruth|Samir|Selma|Stefan|Tariq|Tessa|Tomas|Uma|Vera|Viktor
Wanda|Yara|Yusuf|Zoe
""")
TOPICS = listed("""
remote work|public libraries|city cycling|home gardening|school lunches|solar panels|electric buses|night trains
houseplants|learning the piano|birdwatching|community theatre|second-hand clothes|rainwater tanks|beekeeping
long-distance running|board games|podcasting|street food|food waste|small museums|coastal erosion|wind farms
video calls|job interviews|sleep habits|morning routines|time management|budget travel|mountain hiking|camping
pet adoption|elderly care|volunteer work|local newspapers|online courses|language exchange|robot vacuum cleaners
smart thermostats|self-checkout tills|drone deliveries|3D printing|weather forecasts|urban trees|river restoration
bread baking|coffee brewing|home repairs|car sharing|rooftop gardens|school uniforms|screen time|social media
paper maps|letter writing|choir singing|chess clubs|swimming lessons|yoga for beginners|first aid|road safety
noise in cities|light pollution|recycling|tap water|seasonal vegetables|farmers' markets|fair trade
tipping in restaurants|four-day working weeks|open-plan offices|handwriting|public transport passes|ferry travel
winter sports
wildlife cameras|honey bees|coral reefs|peat bogs|glaciers|earthquake drills|flood protection|forest fires
space telescopes|satellite internet|password managers|backups|open-source software|spam e-mails|chatbots|video games
film photography|pottery|knitting|woodworking|street music|graffiti|poetry evenings|fairy tales|science fairs
student housing|shared kitchens|pen pals|train stations|lighthouses|old bridges|canal boats|hot-air balloons
""")
CITIES = listed("""
Lisbon|Nairobi|Osaka|Montreal|Lima|Tallinn|Bergen|Porto|Hanoi|Accra|Marseille|Krakow|Valparaiso|Perth|Tbilisi
Glasgow|Bologna|Ghent|Izmir|Rabat|Denver|Quito|Turku|Leipzig|Cork
""")
JOBS = listed("""
nurse|teacher|bus driver|software developer|baker|accountant|architect|librarian|electrician|museum guide|florist
veterinarian|journalist|carpenter|chef|pharmacist|lifeguard|translator|farmer|plumber|photographer|shop manager
""")


def pick(rng: random.Random, options: str) -> str:
    """One of the alternatives of "this|that|the other"."""
    return rng.choice(options.split("|"))


def typed_quickly(rng: random.Random, text: str, share: float) -> str:
    """In a share of the cases the text as people type it into a search box: lower case, often without the mark."""
    if rng.random() >= share:
        return text
    return text.lower().rstrip("?.") + rng.choice(("", "", "?"))
