"""Words that belong to a concept, and prompts that lean towards none: what the effect of a vector, and its damage, is read on.

Written for this project. The words are judged as whole words in lower case, behind a space.
"""

PROMPTS: tuple[str, ...] = (
    "On the way home we saw",
    "In the kitchen there were",
    "The old man bought",
    "She opened the bag and found",
    "My neighbour told me about",
    "The children drew",
    "Last week the museum received",
    "He looked at the table and noticed",
    "For the party we still need",
    "The report describes",
    "When the train arrived, it carried",
    "They walked along the river and talked about",
    "The teacher asked the class to read",
    "Her letter mentioned",
    "The dog ran into the garden and brought back",
    "A stranger at the station offered",
)

CAPTIONS: tuple[str, ...] = (
    "Describe the picture.",
    "Say what this picture is.",
    "Write a caption for this picture.",
    "Tell me about the picture.",
    "A picture of",
    "This picture could hang in",
    "Give the picture a title.",
    "Who would like this picture?",
    "The person who made this picture",
    "Write the first sentence of a story about this picture.",
    "What would you ask about this picture?",
    "Say in a few words what you think of this picture.",
    "The most important part of the picture is",
    "Is this a photograph or a drawing?",
    "Anyone who looks at this picture will",
    "Write a short note to go with this picture.",
)
"""Asked beside pictures, about nothing that a benchmark asks."""

_LISTS = {
    "counting": "one two three four five six seven eight nine ten eleven twelve twenty thirty hundred dozen",
    "temporal": "before after yesterday today tomorrow tonight when while until during then now soon later",
    "negation": "no not nothing never nobody none nowhere without neither nor",
    "spatial_relationship": "on in under above below behind beside near between over inside outside next across beneath",
    "comparison": "more less better worse larger smaller older younger taller than most least best worst",
    "attribute": "red blue green yellow black white small large big tiny huge old new wooden bright soft",
    "entity": "dog cat horse bird elephant violin car bicycle boat train house tree book doctor king child",
    "action": "run runs ran jump jumped walk walked throw threw carry carried pour poured whisper whispered",
}
WORDS: dict[str, tuple[str, ...]] = {concept: tuple(words.split()) for concept, words in _LISTS.items()}
