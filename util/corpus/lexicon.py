"""Word lists of the embedded corpus: names of people, places and companies, and everyday words.

Names are put together from stems and endings, so that a trained tokenizer meets them as one or two
pieces, as it would meet real names. The region of a town follows from its stem alone and is never
written in a report: a summary that names it needs knowledge, not copying.
"""

_TOWN_STEMS = (
    "Ash Bram Cald Dun Eller Farn Glen Hal Ivel Kes Lang Mar Nether Ock Pen Quar Raven Sel Thorn "
    "Ulver Vel Wex Yar Aln Bex Carr Dray Elm Fos Gar Holm Ingle Kel Loch Mos Nor Orm Pick Row Stan"
).split()
_TOWN_ENDINGS = "ford bury wick ton dale mouth stead ham combe worth field haven by bridge".split()
_REGIONS = (
    "the northern marches",
    "the lake country",
    "the salt coast",
    "the upper valley",
    "the eastern plain",
    "the southern hills",
    "the island province",
    "the border counties",
)

_SURNAME_STEMS = (
    "Ab Bar Cor Dem Ed Fal Gris Hart Is Jar Kal Lom Mer Nas Ol Par Quin Rad Sor Tal Ur Ven Wil Yor "
    "Zan Bel Chan Dor Ersk Fen Gal Hux Imr Jess Kov Lar Mont Nev Osk Pell"
).split()
_SURNAME_ENDINGS = "ano ek ley mann ova sen ton ard ini well son ez ack ier man ow".split()

_COMPANY_STEMS = (
    "Accel Boreal Cobalt Delta Ever Forge Granite Harbor Inter Juni Kestrel Lumen Meri North Orbit "
    "Pine Quanta River Sierra Terra Umbra Vector West Xeno Yield Zenith Amber Blue Crown Drift"
).split()
_COMPANY_ENDINGS = "tech works line mark gen lux dyne port span net".split()

GIVEN_NAMES = (
    "Ada Adil Agnes Aisha Alma Amir Anton Anya Arlo Astrid Basil Beatrix Bela Bruno Camila Carmen "
    "Cedric Chidi Clara Cosmo Dalia Daniel Daria Desmond Dora Edgar Edith Elena Elias Elsa Emeka "
    "Emil Esther Ezra Fadil Felix Fiona Flora Frida Gareth Gideon Gloria Greta Gustav Hana Hamid "
    "Harriet Hector Helga Hugo Ida Ignatius Imani Ines Ingrid Isaac Ivan Ivy Jasper Joan Jonah "
    "Judith Julius Kamal Karin Kenji Kira Lars Leila Leon Lidia Linus Lucia Magnus Malik Marcel "
    "Margot Marta Mateo Maya Milo Mina Miriam Nadia Nestor Nina Noor Odette Olga Omar Oscar Paloma "
    "Pavel Petra Phoebe Quentin Rafael Ramona Renata Rufus Ruth Sabine Samir Selma Silas Sonia "
    "Stella Sven Tamar Tessa Theo Tilda Tobias Ulla Uma Valentin Vera Victor Viola Walter Wanda "
    "Wendell Xavier Yara Yusuf Zelda Zora"
).split()

WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = ("January February March April May June July August September October November December").split()
DAY_TIMES = (
    "shortly before dawn|early in the morning|around noon|in the afternoon|late in the evening|"
    "just after midnight|during the night|at lunchtime"
).split("|")

OFFICIALS = "mayor|police chief|council leader|district governor|fire commander|deputy mayor".split("|")
BYSTANDERS = (
    "baker|retired teacher|bus driver|student|nurse|carpenter|florist|librarian|postman|plumber|"
    "butcher|gardener|waiter|tailor|farmer|electrician|musician|shop owner|painter|cyclist|"
    "dentist|taxi driver|fisherman|janitor|pharmacist|hairdresser|mechanic|journalist|beekeeper"
).split("|")

REMARKS = (
    "I have never seen anything like it in all my years here|It feels as if the whole town is "
    "holding its breath|People are talking about nothing else|We are still trying to understand "
    "what it means for us|My family has lived on this street for three generations|You could hear "
    "it from the other side of the river|Everybody here knows somebody who is affected|I only "
    "hope that somebody learns a lesson from this|The neighbours came out with blankets and warm "
    "tea|Nobody warned us that this could happen|It was the strangest week that I can remember|"
    "My phone has not stopped ringing since then|The children keep asking me about it|We will "
    "tell our grandchildren about this one day|There was a long silence and then everyone began "
    "to shout|I was carrying groceries when my sister called|Our little cafe has been full of "
    "reporters|Somebody should have spoken up much sooner"
).split("|")

BACKGROUND = (
    "The town is best known for its {season} market and an unfinished cathedral.|Its old quarter "
    "draws painters and walkers every {season}.|Most residents work in the cannery, the brick "
    "factory or the small hospital.|A railway line once linked the town with the quarry on the "
    "hill.|The local paper ran out of copies within an hour.|Visitors usually come for the hot "
    "springs and the wooden bridge.|The weather has been unusually {weather} for the {season}.|"
    "Traffic around the main square was slow for most of the day.|Hotels nearby said that their "
    "rooms were booked until the end of {month}.|A choir rehearsal and a chess evening were moved "
    "to the parish hall.|The town has about {crowd} inhabitants, many of them pensioners.|A tower "
    "from the {century} century still overlooks the harbour."
).split("|")
SEASONS = "spring summer autumn winter".split()
WEATHERS = "mild wet dry cold windy humid foggy".split()
CENTURIES = "thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth".split()


def _combine(stems: list[str], endings: list[str]) -> list[str]:
    return [stem + ending for stem in stems for ending in endings]


TOWNS = _combine(_TOWN_STEMS, _TOWN_ENDINGS)
SURNAMES = _combine(_SURNAME_STEMS, _SURNAME_ENDINGS)
COMPANIES = _combine(_COMPANY_STEMS, _COMPANY_ENDINGS)
REGION_OF_TOWN = {
    stem + ending: _REGIONS[index % len(_REGIONS)]
    for index, stem in enumerate(_TOWN_STEMS)
    for ending in _TOWN_ENDINGS
}
