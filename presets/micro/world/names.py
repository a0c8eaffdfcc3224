"""The words of the toy world: invented names, and everyday nouns, so that a small vocabulary covers them."""

PEOPLE = """
Alba Arno Bela Bodo Cato Cira Dalo Dena Edo Elka Faro Fila Gero Gusta Hani Hilo Ilka Iro Jaro Jola Kemo Kira
Lano Luma Mero Mila Nando Nela Odo Orla Paro Pelka Quino Quira Rano Rilla Sabo Sela Taro Tilda Udo Ulla Varo
Vela Wando Willa Xano Xila Yaro Yella Zano Zilla Brano Clea Drusa Frido Greta Holm Imra Jasko
""".split()
PLACES = """
Altmoor Bramsee Corvale Dunwick Eastmere Farholt Glenrow Hartfen Inswold Kelbrook Lowmarsh Marlow Northel
Oakrise Pinford Quarrel Redhill Stonby Thornea Ulmstead Velden Westock Yarrowby Zellin Ashdown Birkley Coldham
Dorne Elmscar Foxley Grayle Hollin Ivory Jorvik Kestrel Lindow
""".split()
# fmt: off
THINGS = [
    "the Amber Bell", "the Broken Crown", "the Copper Gate", "the Dragon Clock", "the Eastern Lamp",
    "the First Anchor", "the Golden Loom", "the Hollow Drum", "the Iron Harp", "the Jade Mirror",
    "the King's Table", "the Long Bridge", "the Moon Wheel", "the Night Tower", "the Old Mill",
    "the Pearl Mask", "the Quiet Well", "the River Stone", "the Silver Cup", "the Tall Ship",
    "the Upper Garden", "the Velvet Throne", "the White Horn", "the Yellow Banner", "the Ash Cradle",
    "the Black Compass", "the Crystal Key", "the Deep Cellar", "the Echo Wall", "the Flint Knife",
    "the Giant Kite", "the Hidden Stair", "the Ink Fountain", "the Juniper Chest", "the Kindly Statue",
    "the Lost Flute",
]
# fmt: on
CRAFTS = "baker weaver potter smith tailor mason carver fisher miller painter hunter farmer".split()
PETS = "cat dog goat owl fox hen pony crow toad hare swan mole".split()
FOODS = "bread soup plums cheese beans honey fish nuts pears rice eggs cake".split()
COLOURS = "red blue green white black yellow brown grey pink purple orange golden".split()
METALS = "iron copper tin silver gold lead wood clay glass bone stone wax".split()
TRADES = "wool salt grain timber oil wine cloth paper spice leather coal silk".split()
MONTHS = "January February March April May June July August September October November December".split()
OBJECTS = "coin book ring key rope lamp ball cup hat map bell brush spoon comb flute scarf".split()
CONTAINERS = "box bag jar chest drawer basket pot barrel sack tin bucket cabinet".split()
GOODS = "shells apples coins beads stones candles buttons feathers seeds ribbons bricks nails".split()
WORDS = """
lamp river stone bread apple chair cloud table horse candle garden window paper silver mountain bottle winter
summer basket needle button feather hammer ladder mirror ribbon saddle turtle valley wagon
""".split()
# People who occur only in training: statements and questions about them teach the model to match facts with letters.
TRAIN_ONLY_PEOPLE = [
    f"{first}{second}"
    for first in "Cha Dru Fle Gri Hoa Jy Kne Plu Sho Tru Vla Wey".split()
    for second in "bert dwin fax gard lop mund nik phus rick stan tov wyn".split()
]
