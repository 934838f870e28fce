"""Renders chat templates with transformers: the demo's, those of published models, and some that exercise the language.

Each case is a template, a request and what comes out, or the message that the template raises. What matters is easy to
get wrong elsewhere: blocks swallow the newline behind them and the spaces before them (`trim_blocks`, `lstrip_blocks`),
`tojson` escapes nothing, and a template may refuse a conversation (`raise_exception`).
"""

import json
import pathlib

from jinja2.exceptions import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

ROOT = pathlib.Path(__file__).parents[2]
BOS, EOS = "<s>", "</s>"

TEMPLATES = {
    "debian-sections": (ROOT / "pipeline/demo/model/debian-sections/chat_template.jinja").read_text(),
    # Meta-Llama-3-8B-Instruct
    "llama-3": "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    # microsoft/bitnet-b1.58-2B-4T
    "bitnet-2b-4t": "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = message['role'] | capitalize + ': '+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}",
    # tiiuae/Falcon3-7B-Instruct, what it does without tools
    "falcon-3": "{% for message in messages %}{% if message['role'] == 'system' %}{{ '<|system|>\n' + message['content'] + '\n' }}{% elif message['role'] == 'user' %}{{ '<|user|>\n' + message['content'] + '\n' }}{% elif message['role'] == 'assistant' %}{% if not loop.last %}{{ '<|assistant|>\n'  + message['content'] + eos_token + '\n' }}{% else %}{{ '<|assistant|>\n'  + message['content'] + eos_token }}{% endif %}{% endif %}{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}",
    # the manner of the template that TRL has for Falcon 3: a branch for tools, which are never given here, and white space
    # taken away before every tag
    "branch-for-tools": """{%- if tools %}
    {{- '<|system|>\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content }}
        {%- set rest = messages[1:] %}
    {%- else %}
        {%- set rest = messages %}
    {%- endif %}
    {{- 'Tools: ' + tools | tojson(indent=2) + '\\n' }}
    {%- for message in rest %}
        {%- if message.tool_calls %}
            {{- message.tool_calls | tojson(indent=2) + eos_token }}
        {%- endif %}
    {%- endfor %}
    {{- '<|assistant|>\\n' if add_generation_prompt }}
{%- else %}
    {%- for message in messages %}
        {%- if message['role'] != 'assistant' %}
            {{- '<|' + message['role'] + '|>\\n' + message['content'] + '\\n' }}
        {%- else %}
            {{- '<|assistant|>\\n' + message['content'] + eos_token }}
            {{- '\\n' if not loop.last }}
        {%- endif %}
        {{- '<|assistant|>\\n' if loop.last and add_generation_prompt }}
    {%- endfor %}
{%- endif %}
""",
    # ChatML
    "chatml": "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    # Llama 2's manner: a system message inside the first turn, roles that must alternate
    "alternating": """{% if messages[0]['role'] == 'system' %}
    {% set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}
    {% set turns = messages[1:] %}
{% else %}
    {% set system = '' %}
    {% set turns = messages %}
{% endif %}
{% for message in turns %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {% endif %}
    {% if message['role'] == 'user' %}
{{ bos_token + '[INST] ' + (system if loop.first else '') + message['content'].strip() + ' [/INST]' }}
    {% elif message['role'] == 'assistant' %}
{{ ' ' + message['content'].strip() + ' ' + eos_token }}
    {% endif %}
{% endfor %}
""",
    # the language: whitespace control, macros, namespaces, loops over lists and maps, tests, methods
    "language": """{%- macro turn(role, text='-') -%}
[{{ role|upper }}] {{ text }}
{%- endmacro -%}
{%- set ns = namespace(users=0, last='') -%}
{{- bos_token }}
{% for message in messages %}
  {%- if message.role == 'user' %}
    {% set ns.users = ns.users + 1 %}
  {% endif %}
{{ turn(message.role, message.content) }}{{ ' #' ~ loop.index ~ '/' ~ loop.length }}
  {% if not loop.last %}
--
  {% endif %}
  {% set ns.last = message.role %}
{% endfor %}
{{ ns.users }} by users; last {{ ns.last }}; {{ 'ends with user' if ns.last == 'user' else 'ends otherwise' }}
{% for key, value in messages[0].items() %}
{{ key }}={{ value | length }}{{ ',' if not loop.last }}
{% endfor %}
{{ messages | map(attribute='role') | join('+') }} {{ (messages | selectattr('role', 'equalto', 'user') | list) | length }}
{{ messages[-1].content.startswith('a') }} {{ messages[-1]['content'].split(' ')[0] | lower }} {{ messages[0].content.replace('e', '3').upper() }}
{{ tools is defined }} {{ missing is defined }} {{ none is none }} {{ messages[0].name is defined }}{# a comment #}
{% if add_generation_prompt is defined and add_generation_prompt %}
>{% endif %}
""",
    "tojson": "{% for message in messages %}{{ message | tojson }}\n{{ message.content | tojson }}\n{% endfor %}{{ {'b': 1, 'a': [1.5, true, none, '<é>&\\'']} | tojson }}\n{{ [1, {'k': 'v'}] | tojson(indent=2) }}",
    "break-and-continue": "{% for message in messages %}{% if message.role == 'system' %}{% continue %}{% endif %}{{ message.content }}|{% if loop.index0 >= 2 %}{% break %}{% endif %}{% endfor %}",
}

# The keys of a message stand in alphabetical order, in which the engine holds JSON objects: some templates list them.
CONVERSATIONS = {
    "one": [{"content": "Package: kate\nDepends: libc6, libkf5 ", "role": "user"}],
    "system first": [{"content": "Be brief.", "role": "system"}, {"content": "  Where is é? ", "role": "user"}],
    "three turns": [
        {"content": "Hello there", "role": "user"},
        {"content": " Hi! ", "role": "assistant"},
        {"content": "a <b> & \"c\" 'd'\n\ttab \\ {{ not a tag }} {% nor this %} 😀", "role": "user"},
    ],
    "two users": [{"content": "first", "role": "user"}, {"content": "second", "role": "user"}],
}


def render(template, messages):
    """{"rendered": text}, or {"refused": message} if the template raises."""
    try:
        rendered, _ = render_jinja_template(
            conversations=[messages], chat_template=template, add_generation_prompt=True, bos_token=BOS, eos_token=EOS
        )
    except TemplateError as error:
        return {"refused": str(error)}
    return {"rendered": rendered[0]}


def write(directory):
    """One file a template, one case a line."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, template in TEMPLATES.items():
        cases = [{"case": case, "messages": messages, **render(template, messages)} for case, messages in CONVERSATIONS.items()]
        lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
        head = json.dumps({"template": template, "bos_token": BOS, "eos_token": EOS}, ensure_ascii=False)[:-1]
        (directory / f"{name}.json").write_text(f'{head}, "cases": [\n{lines}\n]}}\n')
