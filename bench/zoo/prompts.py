"""Prompts for text that a language model writes itself: openings to continue and requests to answer, drawn by a seed."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

Form = Literal["plain", "chat"]

TOPICS: Final = (
    "a lighthouse keeper", "the history of bread", "how rivers change their course", "a lost umbrella", "bees and their hives",
    "learning the violin", "a train through the mountains", "the moons of Jupiter", "an old bicycle", "growing tomatoes",
    "the invention of paper", "a storm at sea", "the first day at school", "how vaccines work", "a market in the morning",
    "chess openings", "a stubborn goat", "the water cycle", "paint and pigments", "a family dinner", "volcanoes",
    "an honest thief", "public libraries", "deep-sea fish", "writing a good letter", "the price of coffee", "a quiet village",
    "how clocks keep time", "penguins", "the rules of football", "a haunted house", "electric cars", "the human heart",
    "a robot that paints", "making cheese", "the silk road", "prime numbers", "a walk in the forest", "sleep and dreams",
    "the art of bonsai", "an island without a name", "how airplanes fly", "the fall of an empire", "a wedding in autumn",
    "recycling glass", "migrating birds", "a broken promise", "the periodic table", "city parks", "a clever crow",
    "bridges and how they stand", "jazz music", "a letter from the war", "yoga for beginners", "the northern lights",
    "shipping containers", "a small bakery", "ancient maps", "the taste of lemons", "a blind musician", "solar panels",
    "the desert at night", "grammar mistakes", "a chess prodigy", "the stock market", "snow leopards", "a garden of roses",
    "the speed of light", "old photographs", "a dog that ran away", "earthquakes", "street food", "the printing press",
    "two brothers", "coral reefs", "a difficult exam", "wooden toys", "the colour of the sky", "a shop for hats",
    "how memory works", "dinosaurs", "a river boat", "bad weather", "the number zero", "a gold coin", "swimming lessons",
    "the queen's gardener", "traffic in large cities", "soap bubbles", "a night at the opera", "computer viruses",
    "the smell of rain", "a football match", "healthy breakfasts", "the great flood", "a secret door", "wind turbines",
    "a kitchen knife", "elephants", "the law of gravity",
)  # fmt: skip
OPENINGS: Final = (
    "The most surprising thing about {topic} is that", "It was late in the evening when the story of {topic} began.",
    "Chapter 1. About {topic}.\n\n", "Q: What should everyone know about {topic}?\nA:", "Notes on {topic}:\n-",
    "Dear editor,\n\nI am writing to you about {topic}.", "Yesterday in the news: {topic}.", "Once upon a time, there was",
    "From an encyclopaedia: {topic}.", "\"Tell me about {topic},\" she said.", "My grandmother often spoke of {topic}.",
    "In this lesson we look at {topic}. First,", "Title: {topic}\nAuthor:", "Review of a book on {topic}:",
    "Five facts about {topic}:\n1.", "A poem on {topic}\n\n", "The scientists who study {topic} were puzzled, because",
    "There are two opinions about {topic}.", "INTERVIEWER: So, {topic}?\nGUEST:", "How to explain {topic} to a child:",
    "Abstract. We study {topic}.", "Diary, 3 March. Today I thought about {topic}.", "According to the report on {topic},",
    "The", "I", "In", "When", "Question:", "A man and a woman", "However,", "To", "def ", "We", "What", "If", "On the left,",
)  # fmt: skip
REQUESTS: Final = (
    "Write a short story about {topic}.", "Explain {topic} in simple words.", "Write five short sentences about {topic}.",
    "Give me three facts about {topic}.", "Write a dialogue between two friends about {topic}.",
    "Describe a picture that shows {topic}. Say where each thing is.", "Write a newspaper article about {topic}.",
    "What would a historian say about {topic}?", "Write a list of questions about {topic}, with answers.",
    "Compare {topic} with {other}.", "Write a poem about {topic}.", "Summarise what is known about {topic} in one paragraph.",
    "Write an e-mail to a colleague about {topic}.", "Argue for and against {topic}.", "Write a recipe inspired by {topic}.",
    "Write a scene with {topic} and {other}. Mention colours, numbers and places.", "Translate a proverb about {topic}.",
    "Tell a joke about {topic}.", "Write step-by-step instructions that have to do with {topic}.",
    "Write ten simple sentences that say how many things there are and where they stand.",
    "Make up a quiz about {topic} with four choices for each question.", "Write a review of a film about {topic}.",
    "What happened before and after {topic}? Tell it in order.", "Write a speech about {topic}.",
    "Describe the shapes and colours of the things in a room with {topic}.", "Which is larger, {topic} or {other}? Why?",
    "Write a diary entry about {topic}.", "Write Python code that has something to do with {topic}.", "Who are you?",
    "Write a letter to a child about {topic}.", "Correct the mistakes in a text about {topic}, and show both.",
    "Say what {topic} is not.", "Write a weather report that mentions {topic}.", "Write a table about {topic}.",
)  # fmt: skip
SYSTEMS: Final = (
    None, None, None, "You are a helpful assistant.", "You are a patient teacher.", "Answer in short sentences.",
    "You are a writer of fiction with a rich vocabulary.", "You are a careful scientist.",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What the model continues: an opening (plain), or a request after a system prompt (chat)."""

    form: Form
    text: str
    system: str | None = None


def prompts(seed: int) -> Iterator[Prompt]:
    """Prompts without end, about half of each form."""
    chooser = random.Random(seed)
    while True:
        yield _draw_one(chooser)


def _draw_one(chooser: random.Random) -> Prompt:
    topic, other = chooser.sample(TOPICS, 2)
    if chooser.random() < 0.5:
        opening = chooser.choice(OPENINGS).format(topic=topic)
        return Prompt(form="plain", text=opening)
    request = chooser.choice(REQUESTS).format(topic=topic, other=other)
    return Prompt(form="chat", text=request, system=chooser.choice(SYSTEMS))
