"""What kinds of things a household holds, and what can be done with them.

The tables say what ALFWorld's planning domain and its games say (``alfred.pddl``: ``openable``,
``cleanable``, ``heatable``, ``coolable``, ``sliceable``, ``toggleable``, ``canContain``;
https://github.com/alfworld/alfworld, MIT). Names are ALFWorld's: one word, small letters.
"""

from __future__ import annotations

OPENABLE = frozenset({"cabinet", "drawer", "fridge", "microwave", "safe"})
LAMPS = frozenset({"desklamp", "floorlamp"})
KNIVES = frozenset({"knife", "butterknife"})
SLICEABLE = frozenset({"apple", "bread", "egg", "lettuce", "potato", "tomato"})
_CLEANABLE = (
    "apple bowl butterknife cloth cup dishsponge egg fork kettle knife ladle lettuce mug pan plate "
    "pot potato soapbar spatula spoon tomato"
)
_HEATABLE = "apple bread cup egg mug plate potato tomato"
_COOLABLE = "apple bowl bread cup egg lettuce mug pan plate pot potato tomato winebottle"
CLEANABLE = frozenset(_CLEANABLE.split())
HEATABLE = frozenset(_HEATABLE.split())
COOLABLE = frozenset(_COOLABLE.split())
# What is done to an object that is held: (kind of receptacle needed, kinds it can be done to).
TREATMENTS = {
    "clean": ("sinkbasin", CLEANABLE),
    "heat": ("microwave", HEATABLE),
    "cool": ("fridge", COOLABLE),
}

_SEAT = "book box cellphone creditcard keychain laptop newspaper pillow remotecontrol"
_BATH = "candle cloth dishsponge handtowel soapbar soapbottle spraybottle tissuebox toiletpaper"
_TABLE = (
    "alarmclock apple baseballbat basketball book bowl box bread butterknife cd candle cellphone "
    "cloth creditcard cup dishsponge egg fork kettle keychain knife laptop lettuce mug newspaper "
    "pan pen pencil peppershaker plate pot potato remotecontrol saltshaker soapbottle spatula "
    "spoon spraybottle statue tennisracket tissuebox tomato vase watch wateringcan winebottle "
)
# Which kinds of object each kind of receptacle takes.
CONTAINS = {
    receptacle: frozenset(kinds.split())
    for receptacle, kinds in {
        "armchair": _SEAT + " cloth",
        "bathtubbasin": "cloth dishsponge handtowel soapbar",
        "bed": "baseballbat basketball book cellphone laptop pillow tennisracket",
        "cabinet": "book bowl box cd candle cloth cup dishsponge glassbottle handtowel kettle "
        "ladle mug newspaper pan peppershaker plate plunger pot saltshaker soapbar soapbottle "
        "spraybottle tissuebox toiletpaper vase wateringcan winebottle",
        "cart": _BATH,
        "coffeemachine": "mug",
        "coffeetable": "book bowl box candle cellphone creditcard keychain laptop newspaper pen "
        "pencil plate remotecontrol statue tissuebox vase watch wateringcan",
        "countertop": "alarmclock apple book bowl bread butterknife cd candle cellphone cloth "
        "creditcard cup dishsponge egg fork glassbottle handtowel kettle keychain knife ladle "
        "laptop lettuce mug pan pen pencil peppershaker plate pot potato remotecontrol saltshaker "
        "soapbar soapbottle spatula spoon spraybottle statue tissuebox toiletpaper tomato vase "
        "winebottle",
        "desk": "alarmclock basketball book bowl box cd cellphone cloth creditcard keychain laptop "
        "mug pen pencil remotecontrol statue tennisracket tissuebox vase watch wateringcan",
        "diningtable": _TABLE + "glassbottle ladle",
        "drawer": "book butterknife cd candle cellphone cloth creditcard dishsponge fork handtowel "
        "keychain knife ladle newspaper pen pencil peppershaker remotecontrol saltshaker soapbar "
        "soapbottle spatula spoon spraybottle tissuebox toiletpaper watch wateringcan",
        "dresser": "alarmclock basketball book bowl box cd candle cellphone cloth creditcard "
        "keychain laptop mug newspaper pen pencil plate remotecontrol spraybottle statue "
        "tennisracket tissuebox toiletpaper vase watch wateringcan",
        "fridge": "apple bowl bread cup egg glassbottle lettuce mug pan plate pot potato tomato "
        "winebottle",
        "garbagecan": "apple bread cd cloth dishsponge egg handtowel lettuce newspaper pen pencil "
        "potato soapbar soapbottle spraybottle tissuebox toiletpaper tomato winebottle",
        "handtowelholder": "handtowel",
        "laundryhamper": "cloth",
        "microwave": "apple bowl bread cup egg glassbottle mug plate potato tomato",
        "ottoman": _SEAT,
        "safe": "cd cellphone creditcard keychain statue vase watch",
        "shelf": "alarmclock book bowl box cd candle cellphone cloth creditcard cup dishsponge "
        "glassbottle handtowel kettle keychain mug newspaper pen pencil peppershaker plate pot "
        "remotecontrol saltshaker soapbar soapbottle spraybottle statue tissuebox toiletpaper vase "
        "watch wateringcan winebottle",
        "sidetable": _TABLE + "handtowel soapbar toiletpaper",
        "sinkbasin": "apple bowl butterknife cloth cup dishsponge egg fork glassbottle handtowel "
        "kettle knife ladle lettuce mug pan plate pot potato soapbar spatula spoon tomato",
        "sofa": _SEAT,
        "stoveburner": "kettle pan pot",
        "toilet": _BATH,
        "toiletpaperhanger": "toiletpaper",
        "towelholder": "towel",
        "tvstand": "tissuebox",
    }.items()
}
