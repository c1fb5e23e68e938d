"""The chat format of *demo*: SmolLM2's own turns, an image part as the one `<image>` that the processor expands."""

from typing import Final

CHAT_TEMPLATE: Final = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image>' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
BEFORE_IMAGE: Final = "<|im_start|>user\n"
AFTER_BODY: Final = "<|im_end|>\n<|im_start|>assistant\n"
