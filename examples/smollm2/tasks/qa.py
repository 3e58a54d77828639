# ruff: noqa: E501  (one template a line)
"""Short factual questions, as people type them."""

import random

from tasks.words import listed, typed_quickly

# Each group: templates and what is put in for {x}.
_GROUPS: list[tuple[list[str], list[str]]] = [
    (
        listed("""What is the capital of {x}?|What is the population of {x}?|What language do they speak in {x}?
What is the currency of {x}?|On which continent is {x}?|What is {x} famous for?|What is the national dish of {x}?
Which countries border {x}?|What are the colors of the flag of {x}?|When did {x} become independent?
What is the largest city in {x}?|What is the longest river in {x}?|Who is the head of state of {x}?
How big is {x}?|What is the highest mountain in {x}?|What time zone is {x} in?"""),
        listed("""Argentina|Australia|Austria|Bangladesh|Belgium|Bolivia|Botswana|Brazil|Bulgaria|Cambodia|Cameroon|Canada
Chile|China|Colombia|Costa Rica|Croatia|Cuba|the Czech Republic|Denmark|Ecuador|Egypt|Estonia|Ethiopia|Finland|France
Georgia|Germany|Ghana|Greece|Guatemala|Hungary|Iceland|India|Indonesia|Iran|Ireland|Israel|Italy|Jamaica|Japan|Jordan
Kenya|Laos|Latvia|Lebanon|Lithuania|Madagascar|Malaysia|Mali|Malta|Mexico|Mongolia|Morocco|Nepal|the Netherlands
New Zealand|Nigeria|Norway|Pakistan|Panama|Peru|the Philippines|Poland|Portugal|Romania|Rwanda|Saudi Arabia|Senegal
Serbia|Singapore|Slovenia|South Africa|South Korea|Spain|Sri Lanka|Sudan|Sweden|Switzerland|Thailand|Tunisia|Turkey
Uganda|Ukraine|Uruguay|Venezuela|Vietnam|Zambia"""),
    ),
    (
        listed("""Who invented {x}?|When was {x} invented?|Where was {x} invented?|How does {x} work?
what year was {x} first made|Who is credited with inventing {x}?"""),
        listed("""the telephone|the light bulb|the printing press|the steam engine|the bicycle|the zipper|the typewriter
the camera|the microscope|the telescope|the radio|the television|the microwave oven|the sewing machine|the compass
the parachute|the helicopter|the submarine|the transistor|the laser|the ballpoint pen|the safety pin|the stethoscope
the thermometer|the barometer|the piano|the saxophone|dynamite|the elevator|the refrigerator|the dishwasher
the vacuum cleaner|the lawn mower|the traffic light|the barcode|the computer mouse|the world wide web|e-mail|the battery
the electric motor|the cotton gin|the hot-air balloon|the lightning rod|vulcanized rubber|velcro|paper|gunpowder
the pendulum clock|the wristwatch|the crossword puzzle|basketball|volleyball|braille|Morse code|penicillin
the X-ray machine|the pacemaker|the pencil|the can opener|contact lenses"""),
    ),
    (
        listed("""What is {x}?|What does {x} mean in science?|Who discovered {x}?|Why is {x} important?
What causes {x}?|give a simple definition of {x}|In what unit is {x} measured?"""),
        listed("""gravity|photosynthesis|osmosis|radioactivity|electricity|magnetism|inertia|friction|entropy|evaporation
condensation|pressure|density|momentum|voltage|resistance|sound|refraction|erosion|tides|lightning|an eclipse
continental drift|a supernova|a black hole|an isotope|a catalyst|an enzyme|DNA|mitosis|a virus|blood pressure|metabolism
natural selection|the ozone layer|the greenhouse effect|humidity|a solar flare|absolute zero|the speed of light"""),
    ),
    (
        listed("""What is the chemical symbol for {x}?|What is the atomic number of {x}?|What is {x} used for?
who discovered {x} and when|What color is {x}?|At what temperature does {x} melt?"""),
        listed("""gold|silver|iron|copper|tin|lead|mercury|sodium|potassium|calcium|carbon|oxygen|nitrogen|hydrogen|helium
neon|argon|chlorine|iodine|sulfur|phosphorus|zinc|nickel|titanium|uranium|platinum|aluminum|silicon|magnesium|lithium"""),
    ),
    (
        listed("""How long does {x} live?|What does {x} eat?|How fast can {x} run or swim?|Where does {x} live?
What is a baby of {x} called?|How much does {x} weigh?|How many teeth does {x} have?|Is {x} a mammal?
how does {x} sleep|What is a group of animals like {x} called?"""),
        listed("""an elephant|a giraffe|a lion|a tiger|a wolf|a fox|a brown bear|a polar bear|a penguin|an ostrich|an owl
an eagle|a hummingbird|a crocodile|a tortoise|a chameleon|a frog|a salmon|a great white shark|a blue whale|a dolphin
a seal|an octopus|a jellyfish|a honey bee|a butterfly|an ant|a spider|a bat|a hedgehog|a beaver|a kangaroo|a koala
a camel|a horse|a donkey|a goat|a rabbit|a squirrel|a sloth"""),
    ),
    (
        listed("""How many players are on a team in {x}?|Where was {x} first played?|How long does a game of {x} last?
What are the basic rules of {x}?|When did {x} become an Olympic sport?|What equipment do you need for {x}?
How is the score kept in {x}?|which country is best at {x}"""),
        listed("""football|basketball|volleyball|handball|water polo|ice hockey|field hockey|rugby|cricket|baseball
softball|lacrosse|curling|badminton|tennis|table tennis|squash|golf|beach volleyball|ultimate frisbee|polo|netball
fencing|judo|archery|bowling|darts|snooker"""),
    ),
    (
        listed("""Who directed {x}?|When did {x} come out?|Who plays the main role in {x}?|What is {x} about?
did {x} win an oscar|Where was {x} filmed?"""),
        listed("""Casablanca|Citizen Kane|Jaws|Psycho|Vertigo|Metropolis|Amadeus|Alien|Rocky|Gandhi|Chinatown|Goodfellas
The Godfather|Star Wars|Back to the Future|The Matrix|Toy Story|The Lion King|Finding Nemo|Jurassic Park|Titanic|Gladiator
The Sound of Music|Singin' in the Rain|Lawrence of Arabia|Blade Runner|Forrest Gump|Groundhog Day|Spirited Away|Fargo"""),
    ),
    (
        listed("""Who wrote {x}?|When was {x} published?|Who is the main character in {x}?|Where does {x} take place?
what is the first line of {x}|How does {x} end?"""),
        listed("""Don Quixote|Hamlet|Macbeth|Pride and Prejudice|Jane Eyre|Wuthering Heights|Moby-Dick|Frankenstein|Dracula
War and Peace|Crime and Punishment|Les Misérables|Madame Bovary|Faust|The Odyssey|The Divine Comedy|Robinson Crusoe
Gulliver's Travels|Oliver Twist|Great Expectations|Middlemarch|Treasure Island|Around the World in Eighty Days
The Time Machine|The Jungle Book|Alice in Wonderland|Pinocchio|Heidi|Anne of Green Gables|Little Women|Walden"""),
    ),
    (
        listed("""When did {x} begin?|When did {x} end?|What caused {x}?|Who was involved in {x}?|Where did {x} take place?
how long did {x} last|Why is {x} remembered today?"""),
        listed("""the First World War|the Second World War|the Cold War|the French Revolution|the American Civil War
the Russian Revolution|the Industrial Revolution|the Renaissance|the Crusades|the Black Death|the Great Depression
the Thirty Years' War|the Hundred Years' War|the Spanish Civil War|the Korean War|the Vietnam War|the Opium Wars
the Boxer Rebellion|the gold rush in California|the Irish potato famine|the Meiji Restoration|the Space Race"""),
    ),
    (
        listed("""Who was {x}?|When was {x} born?|Where was {x} born?|What is {x} best known for?|How did {x} die?
when did {x} die|Was {x} married?"""),
        listed("""Marie Curie|Isaac Newton|Galileo Galilei|Charles Darwin|Ada Lovelace|Alan Turing|Nikola Tesla|Leonhard Euler
Johannes Kepler|Florence Nightingale|Rosa Parks|Amelia Earhart|Cleopatra|Julius Caesar|Joan of Arc|Marco Polo
Ferdinand Magellan|Johann Sebastian Bach|Wolfgang Amadeus Mozart|Ludwig van Beethoven|Clara Schumann|Vincent van Gogh
Claude Monet|Frida Kahlo|Rembrandt|Confucius|Socrates|Immanuel Kant|Simone de Beauvoir|Mahatma Gandhi|Nelson Mandela
Catherine the Great|Genghis Khan|Simón Bolívar|Emmy Noether|Gregor Mendel|Louis Pasteur|James Cook"""),
    ),
    (
        listed("""How many {x}?|do you know how many {x}"""),
        listed("""bones are in the human body|teeth does an adult have|planets are in the solar system|days are in a leap year
minutes are in a day|seconds are in an hour|strings does a violin have|keys does a piano have|sides does a hexagon have
squares are on a chess board|cards are in a deck|letters are in the Greek alphabet|states are in the United States
countries are in Africa|countries are in the European Union|provinces does Canada have|chambers does the heart have
legs does a spider have|moons does Jupiter have|feet are in a mile|grams are in a pound|ounces are in a pound
players are on a chess team|stripes are on the flag of the United States|languages are spoken in India
people live in Tokyo|oceans are there|time zones does Russia have|muscles are in the human body|liters are in a gallon"""),
    ),
    (
        listed("""What is the function of {x} in the body?|Where in the body is {x}?|What happens when {x} is damaged?
how big is {x} in an adult"""),
        listed("""the heart|the liver|the kidney|the pancreas|the spleen|the stomach|the lung|the brain stem|the cerebellum
the retina|the cornea|the inner ear|the thyroid gland|the bladder|the small intestine|the appendix|the diaphragm|the femur
the spinal cord|the skin|the gallbladder|the trachea"""),
    ),
    (
        listed("""What is the {x} in the world?|what's the {x} in Europe|Name the {x} in Asia.|where is the {x}"""),
        listed("""largest lake|longest river|highest mountain|deepest lake|largest island|largest desert|tallest building
longest bridge|oldest university|largest library|busiest airport|longest tunnel|highest waterfall|largest stadium
biggest port|oldest city|largest forest|coldest place|most active volcano|longest wall"""),
    ),
]
_PREFIX = (
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "Q: ",
    "Question: ",
    "Quick question: ",
    "Answer briefly: ",
    "Please tell me: ",
)


def prompt(rng: random.Random) -> str:
    sizes = [len(templates) * len(words) for templates, words in _GROUPS]
    # The square root keeps the countries from being most of it.
    templates, words = rng.choices(_GROUPS, weights=[size**0.5 for size in sizes])[0]
    text = typed_quickly(rng, rng.choice(templates).format(x=rng.choice(words)), 0.3)
    return rng.choice(_PREFIX) + text if rng.random() < 0.5 else text
