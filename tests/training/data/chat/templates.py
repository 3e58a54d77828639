"""Chat templates of the kinds that targets have."""

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Of Qwen3's kind: tools, calls, results, and reasoning that is dropped once the user has spoken again.
THINKING = """\
{%- if tools %}<|im_start|>system
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}<|im_end|>
{% endif %}
{%- set seen = namespace(last=-1) %}
{%- for message in messages %}
{%- if message.role == "user" %}{%- set seen.last = loop.index0 %}{%- endif %}
{%- endfor %}
{%- for message in messages %}
{%- if message.role == "assistant" %}<|im_start|>assistant
{%- if loop.index0 > seen.last %}
<think>
{{ message.reasoning_content or "" }}
</think>
{%- endif %}
{{ message.content }}
{%- for call in message.tool_calls or [] %}
<call>{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}</call>
{%- endfor %}<|im_end|>
{% elif message.role == "tool" %}<|im_start|>user
<result>{{ message.content }}</result><|im_end|>
{% else %}<|im_start|>{{ message.role }}{{ " " + message.name if message.name else "" }}
{{ message.content }}<|im_end|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking is false %}<think>

</think>
{% endif %}
{%- endif %}"""
# Of LLaVA's kind: finds text in parts alone.
PARTS = (
    "{% for message in messages %}{{ message['role'] | upper }}: "
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
# Of Gemma's kind: takes no system's message, and wants roles that alternate.
STRICT = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}"
    "{% endif %}<{{ message['role'] }}>{{ message['content'] | trim }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<model>{% endif %}"
)
ALL = {"chatml": CHATML, "thinking": THINKING, "parts": PARTS, "strict": STRICT}
