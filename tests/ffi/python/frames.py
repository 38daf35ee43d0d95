"""Packed frames, as docs/packed-frames.md has them."""

import struct
from collections import namedtuple

HEAD = struct.Struct("<IHHQQqiIIIHHBBbxIHHqqq")
HEADER = struct.Struct("<HI")
NO_KEY = 0xFFFF
MESSAGE = 1

Event = namedtuple("Event", "kind flags tag token timestamp_us status attempt topic key id type headers payload")


def decode(frames):
    """The events of one read."""
    events, start = [], 0
    while start < len(frames):
        (
            size, kind, flags, tag, token, timestamp_us, status, attempt,
            payload_len, headers_len, topic_len, key_len, id_len, type_len, _priority,
            _partition, _level, _backend, _offset, _delay_ms, _ttl_ms,
        ) = HEAD.unpack_from(frames, start)  # fmt: skip
        at, pieces = start + HEAD.size, []
        for length in (topic_len, 0 if key_len == NO_KEY else key_len, id_len, type_len, headers_len, payload_len):
            pieces.append(frames[at : at + length])
            at += length
        topic, key, id, type, headers, payload = pieces
        events.append(
            Event(
                kind, flags, tag, token, timestamp_us, status, attempt, topic.decode(),
                None if key_len == NO_KEY else key, id.decode(), type.decode(), dict(headers_of(headers)), payload,
            )  # fmt: skip
        )
        start += size
    return events


def headers_of(block):
    at = 0
    while at < len(block):
        name_len, value_len = HEADER.unpack_from(block, at)
        at += HEADER.size
        yield block[at : at + name_len].decode(), block[at + name_len : at + name_len + value_len]
        at += name_len + value_len


def encode(payload):
    """A message to send; what is 0 is left to the publisher."""
    padding = -(HEAD.size + len(payload)) % 8
    size = HEAD.size + len(payload) + padding
    lengths = len(payload), 0, 0, NO_KEY, 0, 0
    priority = -1
    return HEAD.pack(size, MESSAGE, 0, 0, 0, 0, 0, 0, *lengths, priority, 0, 0, 0, 0, 0, 0) + payload + bytes(padding)
