"""The kinds of event that the embedded corpus reports on.

A kind says the same facts twice: in the long words of a report (`leads`, `details`, and the phrases
listed in `causes` and `outcomes`) and in the short words of its summary. What the summary calls a
cause or an outcome never stands in the report; neither do the words that `figures` derives from
numbers. Those tokens have to be inferred, names have to be copied, and the rest is routine: three
grades of difficulty.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

Figures = Callable[[Random], dict[str, str]]


@dataclass(frozen=True)
class Kind:
    """One kind of event. `causes` and `outcomes` map the summary's words to the reports' phrases."""

    leads: tuple[str, ...]
    details: tuple[str, ...]
    causes: dict[str, tuple[str, ...]]
    outcomes: dict[str, tuple[str, ...]]
    figures: Figures
    summary: str


def _count(rng: Random) -> dict[str, str]:
    """A number of people, and the round word for it."""
    word, low, high = rng.choice([("a few", 3, 9), ("dozens of", 24, 90), ("hundreds of", 210, 940)])
    return {"count": str(rng.randint(low, high)), "magnitude": word}


def _change(rng: Random) -> dict[str, str]:
    """A figure last year and this year, and the words for the change."""
    before = rng.randint(20, 70) * 10
    verb, low, high = rng.choice(
        [("soars", 1.6, 2.4), ("rises", 1.1, 1.35), ("slips", 0.75, 0.92), ("collapses", 0.3, 0.55)]
    )
    return {"before": str(before), "after": str(round(before * rng.uniform(low, high))), "change": verb}


def _vote(rng: Random) -> dict[str, str]:
    """Two shares of a vote in percent, and the words for the margin."""
    word, low, high = rng.choice([("narrowly", 51, 52), ("clearly", 55, 60), ("easily", 66, 80)])
    share = rng.randint(low, high)
    return {"share": str(share), "rest": str(100 - share), "margin": word}


def _score(rng: Random) -> dict[str, str]:
    """Goals of home side and visitors, and the verb for the result."""
    home, away = rng.randint(0, 5), rng.randint(0, 5)
    result = "draw with" if home == away else "beat" if home > away else "lose to"
    return {"home": str(home), "away": str(away), "result": result}


KINDS = (
    Kind(
        leads=(
            "Flames tore through a {place} in {town} {time} on {day}.",
            "Smoke rose over {town} {time} on {day} as a {place} burned down.",
        ),
        details=(
            "Doctors treated {count} people for burns and smoke.",
            "Crews from {other_town} needed {hours} hours to bring the blaze under control.",
        ),
        causes={
            "electrical": (
                "An old cable had melted behind a wall.",
                "A fuse box had been sparking for days.",
            ),
            "kitchen": ("A pan of oil had been left on a stove.", "Lunch was forgotten in a hot oven."),
            "deliberate": (
                "Investigators found petrol cans and a lighter.",
                "A masked man was seen running away.",
            ),
        },
        outcomes={
            "orders checks": ("{surname} wants every similar building inspected.",),
            "opens a fund": ("{surname} asked residents to donate to those who lost everything.",),
            "faces criticism": ("Residents booed {surname} because the hydrants were dry.",),
        },
        figures=_count,
        summary="{cause} fire in {region} injures {magnitude} people in {town}; {official} {surname} {outcome}.",
    ),
    Kind(
        leads=(
            "Water swept through the streets of {town} {time} on {day}.",
            "The river at {town} burst its banks {time} on {day}.",
        ),
        details=(
            "Boats carried {count} people out of their homes.",
            "In {other_town} the water stopped {hours} centimetres below the dam.",
        ),
        causes={
            "storm": (
                "Two days of thunder and gales had gone before.",
                "Hail and gusts had battered the hills.",
            ),
            "snowmelt": (
                "Warm air had thawed the slopes overnight.",
                "The glacier lost its white cover in a week.",
            ),
            "dam": ("A crack had opened in the reservoir wall.", "A sluice gate would not close."),
        },
        outcomes={
            "promises walls": ("{surname} said that higher banks would be built of stone.",),
            "calls in troops": ("Soldiers are on their way at the request of {surname}.",),
            "closes schools": ("Pupils will stay at home, {surname} announced.",),
        },
        figures=_count,
        summary="{cause} flood drives {magnitude} people from {town} in {region}; {official} {surname} {outcome}.",
    ),
    Kind(
        leads=(
            "Workers at {company} in {town} laid down their tools on {day}.",
            "Gates stayed shut at the {company} plant in {town} on {day}.",
        ),
        details=(
            "Pickets counted {count} people outside the factory.",
            "A sister plant in {other_town} kept running for {hours} hours.",
        ),
        causes={
            "pay": ("Wages have not kept up with rents.", "Salaries were frozen for a second year."),
            "safety": ("A press had crushed a hand last week.", "Helmets and goggles had not been replaced."),
            "hours": ("Shifts had been stretched into the weekend.", "Breaks had been shortened again."),
        },
        outcomes={
            "offers talks": ("{surname} invited both sides to sit down together.",),
            "backs workers": ("{surname} joined the pickets and shook hands.",),
            "urges return": ("{surname} told the pickets to go back to their machines.",),
        },
        figures=_count,
        summary="{magnitude} {company} workers in {region} strike over {cause} in {town}; {official} {surname} {outcome}.",
    ),
    Kind(
        leads=(
            "Voters in {town} went to the polls on {day}.",
            "Ballots were counted in {town} until {time} on {day}.",
        ),
        details=(
            "The plan won {share} percent of the vote against {rest} percent.",
            "A similar ballot in {other_town} drew {hours} percent of those registered.",
        ),
        causes={
            "tram": (
                "It would lay rails from the station to the hospital.",
                "Electric carriages would run downtown.",
            ),
            "stadium": (
                "It would give the football club a new ground.",
                "Stands for thousands of fans would rise.",
            ),
            "tax": (
                "It would make owners of second homes pay more.",
                "A levy on visitors would fill the purse.",
            ),
        },
        outcomes={
            "is delighted": ("{surname} danced on the steps of the hall.",),
            "will resign": ("{surname} is going to step down by the end of {month}.",),
            "wants recount": ("{surname} demanded that every ballot be checked again.",),
        },
        figures=_vote,
        summary="{town} in {region} {margin} approves {cause} plan; {official} {surname} {outcome}.",
    ),
    Kind(
        leads=(
            "{company} of {town} opened its books on {day}.",
            "The annual report of {company}, based in {town}, appeared {time} on {day}.",
        ),
        details=(
            "It earned {after} million, compared with {before} million a year earlier.",
            "Its rival {other_company} of {other_town} has {hours} branches.",
        ),
        causes={
            "exports": ("Orders from abroad made the difference.", "Foreign buyers changed the picture."),
            "energy": (
                "The price of gas and power made the difference.",
                "Electricity bills changed the picture.",
            ),
            "rivals": ("A price war made the difference.", "Competitors changed the picture."),
        },
        outcomes={
            "plans hiring": ("The firm is looking for engineers, {surname} was told.",),
            "cuts jobs": ("Half of the staff will go, {surname} was told.",),
            "moves abroad": ("The machines will be shipped overseas, {surname} was told.",),
        },
        figures=_change,
        summary="{company} profit {change} on {cause} in {region}; firm {outcome}, {official} {surname} says in {town}.",
    ),
    Kind(
        leads=(
            "{town} met {other_town} in the regional cup on {day}.",
            "The cup match between {town} and {other_town} kicked off {time} on {day}.",
        ),
        details=(
            "The hosts scored {home} and the visitors {away}.",
            "About {hours} hundred tickets had been sold.",
        ),
        causes={
            "goalkeeper": ("The man between the posts decided it.", "One pair of gloves decided it."),
            "captain": ("The player with the armband decided it.", "The leader of the side decided it."),
            "substitute": ("A man from the bench decided it.", "A late change decided it."),
        },
        outcomes={
            "praises fans": ("{surname} thanked those who had sung in the rain.",),
            "blames referee": ("{surname} said that the whistle had been blown unfairly.",),
            "plans a parade": ("{surname} will lead a march with a brass band.",),
        },
        figures=_score,
        summary="{town} {result} {other_town} in {region} cup as {cause} shines; {official} {surname} {outcome}.",
    ),
    Kind(
        leads=(
            "{given} {culprit} stood before the judges of {town} on {day}.",
            "The trial of {given} {culprit} ended in {town} {time} on {day}.",
        ),
        details=(
            "Jurors split {share} to {rest} in a poll held by the paper.",
            "Witnesses had come from {other_town} for {hours} sessions.",
        ),
        causes={
            "theft": (
                "Silver and rings had vanished from a safe.",
                "Paintings had been carried off in a van.",
            ),
            "fraud": ("Invoices had been made up for years.", "Pensioners had been sold worthless shares."),
            "smuggling": (
                "Cigarettes had been hidden under fish.",
                "Rare birds had crossed the border in crates.",
            ),
        },
        outcomes={
            "jailed": ("The door of a cell will close on the accused for years, {surname} heard.",),
            "freed": ("The accused walked out into the sun, {surname} saw.",),
            "fined": ("The accused has to pay a large sum, {surname} heard.",),
        },
        figures=_vote,
        summary="{culprit} {outcome} over {cause} in {region}; verdict {margin} popular in {town}, {official} {surname} says.",
    ),
    Kind(
        leads=(
            "Farmers around {town} brought in the last of the {crop} on {day}.",
            "The {crop} harvest near {town} came to an end {time} on {day}.",
        ),
        details=(
            "They filled {after} wagons, compared with {before} wagons a year earlier.",
            "In {other_town} the mill was idle for {hours} days.",
        ),
        causes={
            "drought": ("No rain fell for two months.", "The wells ran dry and the soil cracked."),
            "pests": ("Beetles had settled in the fields.", "Caterpillars had been at the leaves."),
            "sunshine": ("The sky stayed clear for weeks.", "Bright days followed one another."),
        },
        outcomes={
            "promises aid": ("{surname} will pay part of what the growers owe.",),
            "lifts prices": ("{surname} expects that a sack will cost more.",),
            "hails growers": ("{surname} raised a glass to those who work the land.",),
        },
        figures=_change,
        summary="{crop} crop {change} near {town} in {region} after {cause}; {official} {surname} {outcome}.",
    ),
    Kind(
        leads=(
            "Patients crowded the clinic of {town} on {day}.",
            "The hospital in {town} ran out of beds {time} on {day}.",
        ),
        details=(
            "Nurses counted {count} people with cramps and fever.",
            "A laboratory in {other_town} tested samples for {hours} hours.",
        ),
        causes={
            "water": ("Taps had been running brown.", "A pipe beside the sewer had split."),
            "food": ("Eggs at a wedding had gone off.", "Old fish had been served at a banquet."),
            "virus": ("Coughing guests had come off a cruise.", "Sneezing spread from class to class."),
        },
        outcomes={
            "urges calm": ("{surname} told residents that there was no reason for panic.",),
            "bans gatherings": ("{surname} called off every concert and meeting.",),
            "sends doctors": ("A team of medics was dispatched by {surname}.",),
        },
        figures=_count,
        summary="{cause} sickens {magnitude} people in {town} in {region}; {official} {surname} {outcome}.",
    ),
    Kind(
        leads=(
            "{company} will build a {site} in {town}, it said on {day}.",
            "Plans for a {site} in {town} were unveiled by {company} on {day}.",
        ),
        details=(
            "It would provide work for {count} people.",
            "The city of {other_town}, {hours} miles away, had also been considered.",
        ),
        causes={
            "batteries": (
                "Cells for electric cars would be made there.",
                "It would store power for vehicles.",
            ),
            "medicines": ("Pills and syrups would be made there.", "It would bottle drops and ointments."),
            "robots": ("Mechanical arms would be made there.", "It would put together moving machines."),
        },
        outcomes={
            "welcomes it": ("{surname} spoke of a gift to the young.",),
            "fears noise": ("{surname} is worried about lorries rumbling past at night.",),
            "seeks a review": ("{surname} wants experts to look at the plans once more.",),
        },
        figures=_count,
        summary="{company} picks {town} in {region} for {cause} {site} with {magnitude} jobs; {official} {surname} {outcome}.",
    ),
)

PLACES = "warehouse|bakery|school|theatre|sawmill|hotel|farmhouse|library|garage|chapel".split("|")
SITES = "factory|laboratory|workshop|depot".split("|")
CROPS = "barley|wheat|apple|potato|grape|hop|plum|onion".split("|")
