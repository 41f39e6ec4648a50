"""Plain word lists for `derive_questions.py`: forms of words, and the names that they go by."""

from __future__ import annotations

from collections.abc import Iterable


def table(text: str) -> dict[str, str]:
    """Forms to names: entries end with a semicolon; other forms of a name follow its colon."""
    found = {}
    for entry in " ".join(text.split()).split(";"):
        name, _, others = entry.strip().partition(":")
        found |= {form.strip(): name for form in [name, *others.split(",")] if form.strip()}
    return found


ANIMALS = table("""
    dog: dogs, puppy, puppies, poodle, poodles, greyhound, greyhounds, terrier, collie, labrador;
    cat: cats, kitten, kittens; horse: horses, pony, ponies; cow: cows, bull, bulls, cattle;
    bird: birds, seagull, seagulls, pigeon, pigeons, parrot, eagle, hawk, goose, geese, crow;
    duck: ducks; sheep: lamb, lambs; goat: goats; elephant: elephants; bear: bears;
    zebra: zebras; giraffe: giraffes; monkey: monkeys; camel: camels; deer; fish;
    rabbit: rabbits, bunny; pig: pigs; squirrel: squirrels; turtle: turtles
""")
PEOPLE = table("""
    man: men, guy, guys, gentleman; woman: women, lady, ladies; boy: boys; girl: girls;
    child: children, kid, kids, toddler, toddlers; baby: babies, infant;
    person: people, persons
""")
CLOTHES = table("""
    shirt: shirts, t-shirt, t-shirts, tshirt; jacket: jackets; coat: coats; hat: hats;
    cap: caps; helmet: helmets; shorts; pants: trousers; jeans; dress: dresses;
    skirt: skirts; suit: suits; uniform: uniforms; sweater: sweaters; sweatshirt: hoodie;
    vest: vests; glasses; sunglasses; goggles; scarf: scarves; wetsuit: wetsuits;
    swimsuit: swimsuits, bikini, bikinis; costume: costumes; collar: collars; gloves;
    boots; shoes; headband; mask: masks; backpack: backpacks; harness; tie: ties
""")
VEHICLES = table("""
    bike: bikes, bicycle, bicycles; motorcycle: motorcycles, motorbike, motorbikes;
    car: cars, jeep; truck: trucks; bus: buses; train: trains; boat: boats, sailboat;
    canoe: canoes; kayak: kayaks; raft: rafts; sled: sleds; scooter: scooters;
    skateboard: skateboards; surfboard: surfboards; snowboard: snowboards;
    airplane: airplanes, plane, planes, jet, jets; atv: atvs; unicycle; wave: waves
""")
THINGS = table("""
    ball: balls; stick: sticks; frisbee: frisbees; toy: toys; camera: cameras;
    guitar: guitars; umbrella: umbrellas; sign: signs; flag: flags; book: books;
    newspaper: newspapers; bag: bags, purse; cup: cups, mug; drink: drinks, beer;
    bottle: bottles; phone: phones, cellphone, cellphones; bat: bats; rope: ropes;
    racket: rackets, racquet; balloon: balloons; microphone: microphones;
    flower: flowers; fishing pole; cigarette: cigarettes; bucket: buckets; hose;
    swing: swings; slide; bench: benches; chair: chairs; table: tables; bed: beds;
    couch: sofa; trampoline; tent: tents; fountain: fountains; bridge: bridges;
    fence: fences; tree: trees; rock: rocks; pizza: pizzas; cake: cakes;
    sandwich: sandwiches; laptop: laptops, computer; clock: clocks; toilet; sink;
    kite: kites
""")
PLACES = table("""
    water; pool; beach: shore; ocean: sea; lake: pond; river: stream, creek; grass: lawn;
    field: meadow; park; street: road; sidewalk; snow; mountain: mountains; hill; cliff;
    rock: rocks, boulder; forest: woods; sand; dirt: mud; ramp; track: racetrack; wall;
    bench; chair; couch: sofa; bed; table; kitchen; playground; stairs: steps; bridge;
    restaurant; store: shop, market; stage; car; tree; swing; trampoline; boat; ice;
    air: midair
""")
SPORTS = table("""
    soccer; football; basketball; baseball: softball; tennis; volleyball; hockey; rugby;
    cricket; surfing: surfer, surfers, surfboard, surfs;
    skateboarding: skateboard, skateboarder, skateboarders, skateboards;
    snowboarding: snowboard, snowboarder, snowboarders; skiing: skier, skiers, skis;
    swimming: swimmer, swimmers; wrestling: wrestler, wrestlers; boxing: boxer, boxers;
    climbing: climber, climbers; karate: martial arts
""")
ACTIVITIES = table("""
    running: runs, run; jumping: jumps, jump, leaping, leaps; swimming: swims, swim;
    walking: walks, walk; sitting: sits, sit, seated; standing: stands, stand;
    playing: plays, play; climbing: climbs, climb; sleeping: sleeps, asleep;
    eating: eats, eat; drinking: drinks, drink; riding: rides, ride;
    lying down: laying, lays, lying, lies; dancing: dances, dance; smiling: smiles;
    surfing: surfs; skateboarding; snowboarding; skiing: skis; sliding: slides;
    swinging: swings; fighting: fights, wrestling; digging: digs; reading: reads;
    singing: sings; fishing; talking: talks; kissing: kisses; kicking: kicks;
    throwing: throws; catching: catches; crawling: crawls; laughing: laughs
""")
COLORS = table("""
    red; blue; green; yellow; orange; pink; purple; black; white; brown; silver;
    tan: beige, cream; gray: grey; gold: golden; black and white: white and black;
    brown and white: white and brown; black and brown: brown and black;
    red and white: white and red
""")
NUMBERS = table("2: two; 3: three; 4: four; 5: five; 6: six; 7: seven; 8: eight")

OUTDOORS = table(
    "outdoors: water, beach, ocean, lake, river, field, street, sidewalk, snow, mountain, hill, "
    "cliff, forest, sand, dirt, grass, park, playground, outside"
)
INDOORS = table(
    "indoors: inside, kitchen, bed, bedroom, couch, sofa, room, carpet, gym, subway, bathtub, "
    "restaurant, store, hallway, office"
)

ALIKE = {
    "child": {"boy", "girl", "baby"},
    "person": {"man", "woman", "boy", "girl", "child", "baby"},
    "cap": {"hat"},
    "jacket": {"coat", "sweatshirt", "vest"},
    "shirt": {"sweatshirt", "sweater", "uniform"},
    "sunglasses": {"glasses", "goggles"},
    "swimsuit": {"shorts", "wetsuit"},
    "duck": {"bird"},
    "bike": {"motorcycle"},
    "canoe": {"kayak", "boat", "raft"},
}
"""A caption with one of these words does not rule out the others."""

PLURALS = {
    "dogs": "dog", "horses": "horse", "birds": "bird", "cats": "cat", "cows": "cow",
    "men": "man", "women": "woman", "boys": "boy", "girls": "girl", "people": "person",
    "children": "child", "kids": "child", "puppies": "dog", "greyhounds": "dog",
    "guys": "man", "ladies": "woman", "toddlers": "child", "babies": "baby", "ducks": "duck",
    "seagulls": "bird", "pigeons": "bird", "poodles": "dog", "bulls": "cow", "cattle": "cow",
    "players": "player", "bikes": "bike", "cars": "car", "boats": "boat", "balls": "ball",
}  # fmt: skip
"""Things that are counted."""

COUNTED = {
    "person": "people",
    "man": "men",
    "woman": "women",
    "child": "children",
    "baby": "babies",
}
"""Names whose plural needs more than an s."""


def kin(name: str) -> set[str]:
    """A name, and those that may be said in its place."""
    return {name} | ALIKE.get(name, set()) | {key for key, some in ALIKE.items() if name in some}


def is_plural(name: str) -> bool:
    return name.endswith("s") and name not in ("bus", "dress", "harness")


def with_article(name: str) -> str:
    """As it is asked for: a dog, an umbrella, glasses."""
    if is_plural(name):
        return name
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def plural(name: str) -> str:
    return COUNTED.get(name, f"{name}s")


def either(words: Iterable[str]) -> str:
    """An expression for any of the words, the longest first."""
    return "|".join(sorted(set(words), key=len, reverse=True))
