"""The C ABI from Python, with nothing but ctypes: no callback, one descriptor, packed frames."""

import ctypes
import json
from ctypes import POINTER, byref, c_char_p, c_int32, c_int64, c_size_t, c_ssize_t, c_uint32, c_uint64, c_void_p

ABI = 1
OK, NO_DATA, CLOSED, PARTIAL = range(4)
E_TOO_LARGE = -10
ACK, RETRY, REJECT = 0x2B5AC401, 0x2B5AC502, 0x2B5AC603
EV_MESSAGE, EV_END = 1, 6
WAIT_MS = 10000


class Header(ctypes.Structure):
    _fields_ = [("name", c_char_p), ("name_len", c_size_t), ("value", c_char_p), ("value_len", c_size_t)]


class Record(ctypes.Structure):
    _fields_ = [
        ("size", c_uint32), ("kind", c_int32),
        ("topic", c_char_p), ("topic_len", c_size_t),
        ("payload", c_char_p), ("payload_len", c_size_t),
        ("key", c_char_p), ("key_len", c_size_t),
        ("id", c_char_p), ("id_len", c_size_t),
        ("type", c_char_p), ("type_len", c_size_t),
        ("headers", POINTER(Header)), ("header_count", c_size_t),
        ("timestamp_us", c_int64), ("delay_ms", c_int64), ("ttl_ms", c_int64),
        ("priority", c_int32), ("flags", c_uint32),
        ("meta", c_char_p), ("meta_len", c_size_t), ("tag", c_uint64),
    ]  # fmt: skip


class Settlement(ctypes.Structure):
    _fields_ = [
        ("size", c_uint32), ("verdict", c_int32), ("token", c_uint64), ("delay_ms", c_int64),
        ("reason", c_char_p), ("reason_len", c_size_t), ("result", c_int32), ("reserved", c_uint32),
    ]  # fmt: skip


class Error(Exception):
    """A call failed; `name` is its status, `details` what the library tells about it."""

    def __init__(self, name, details):
        super().__init__(f"{name}: {details.get('message', '')}")
        self.name, self.details = name, details


def load(path):
    """The library, with the types of all functions that are used here."""
    lib = ctypes.CDLL(path)
    text, handle, err = [c_char_p, c_size_t], c_void_p, POINTER(c_void_p)
    out = POINTER(c_void_p)
    functions = {
        "hmq_abi_check": (c_int32, [c_uint32, err]),
        "hmq_status_name": (c_char_p, [c_int32]),
        "hmq_error_json": (c_char_p, [handle, POINTER(c_size_t)]),
        "hmq_error_free": (None, [handle]),
        "hmq_useless_frees": (c_uint64, []),
        "hmq_hub_open": (c_int32, [*text, c_int32, out, err]),
        "hmq_hub_close": (c_int32, [handle, c_int32, err]),
        "hmq_hub_free": (None, [handle]),
        "hmq_publish_task": (c_int32, [handle, *text, *text, c_int32, c_void_p, err]),
        "hmq_send": (c_int32, [handle, POINTER(Record), c_int32, c_void_p, err]),
        "hmq_pub_new": (c_int32, [handle, *text, out, err]),
        "hmq_pub_send_packed": (c_int32, [handle, *text, c_int32, c_void_p, POINTER(c_size_t), err]),
        "hmq_pub_free": (None, [handle]),
        "hmq_inbox_new": (c_int32, [handle, *text, out, err]),
        "hmq_inbox_fd": (c_ssize_t, [handle]),
        "hmq_inbox_read": (c_int32, [handle, c_void_p, c_size_t, c_int32, POINTER(c_size_t), POINTER(c_size_t)]),
        "hmq_inbox_wake": (None, [handle]),
        "hmq_inbox_free": (None, [handle]),
        "hmq_subscribe_inbox": (c_int32, [handle, *text, handle, c_uint64, c_int32, out, err]),
        "hmq_sub_close": (c_int32, [handle, c_int32, err]),
        "hmq_sub_free": (None, [handle]),
        "hmq_settle_many": (c_int32, [POINTER(Settlement), c_size_t, err]),
    }
    for name, (answer, arguments) in functions.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = answer, arguments
    return lib


class Hub:
    """Owns everything else. ctypes releases Python's lock for the time of each call."""

    def __init__(self, lib, config):
        self.lib, self.handle = lib, c_void_p()
        self.call("hmq_hub_open", config, len(config), WAIT_MS, byref(self.handle))

    def call(self, name, *arguments):
        """Calls a function whose last argument is `err`; raises if it failed."""
        error = c_void_p()
        status = getattr(self.lib, name)(*arguments, byref(error))
        if status < 0:
            details = json.loads(self.lib.hmq_error_json(error, None))
            self.lib.hmq_error_free(error)
            raise Error(self.status_name(status), details)
        return status

    def status_name(self, status):
        return self.lib.hmq_status_name(status).decode()

    def publish_task(self, queue, payload):
        self.call("hmq_publish_task", self.handle, queue, len(queue), payload, len(payload), WAIT_MS, None)

    def send(self, topic, payload, *, id, type, key, headers):
        array = (Header * len(headers))(*[(name, len(name), value, len(value)) for name, value in headers.items()])
        record = Record(size=ctypes.sizeof(Record), priority=-1, headers=array, header_count=len(headers))
        for field, value in {"topic": topic, "payload": payload, "id": id, "type": type, "key": key}.items():
            setattr(record, field, value)
            setattr(record, field + "_len", len(value))
        self.call("hmq_send", self.handle, byref(record), WAIT_MS, None)

    def publish_packed(self, options, frames):
        """Publishes a buffer of frames with one call; answers how many were taken."""
        publisher, accepted = c_void_p(), c_size_t()
        self.call("hmq_pub_new", self.handle, options, len(options), byref(publisher))
        try:
            self.call("hmq_pub_send_packed", publisher, frames, len(frames), WAIT_MS, None, byref(accepted))
        finally:
            self.lib.hmq_pub_free(publisher)
        return accepted.value

    def settle_many(self, verdicts):
        """Settles a list of (token, verdict); answers how each ended."""
        array = (Settlement * len(verdicts))()
        for settlement, (token, verdict) in zip(array, verdicts):
            settlement.size, settlement.token, settlement.verdict = ctypes.sizeof(Settlement), token, verdict
        self.call("hmq_settle_many", array, len(verdicts))
        return [self.status_name(settlement.result) for settlement in array]

    def close(self):
        self.call("hmq_hub_close", self.handle, WAIT_MS)

    def free(self):
        self.lib.hmq_hub_free(self.handle)


class Inbox:
    """A queue with a descriptor, for `selectors` and asyncio."""

    def __init__(self, hub):
        self.hub, self.handle = hub, c_void_p()
        hub.call("hmq_inbox_new", hub.handle, b"{}", 2, byref(self.handle))
        self.fd = hub.lib.hmq_inbox_fd(self.handle)
        self.buffer = ctypes.create_string_buffer(4096)

    def fileno(self):
        return self.fd

    def subscribe(self, options, tag):
        sub = c_void_p()
        hub = self.hub
        hub.call("hmq_subscribe_inbox", hub.handle, options, len(options), self.handle, tag, WAIT_MS, byref(sub))
        return sub

    def read(self, cap=None):
        """What is there, without waiting: (status, frames or the size that is needed)."""
        size = c_size_t()
        cap = len(self.buffer) if cap is None else cap
        status = self.hub.lib.hmq_inbox_read(self.handle, self.buffer, cap, 0, byref(size), None)
        if status == E_TOO_LARGE:
            return status, size.value
        return status, ctypes.string_at(self.buffer, size.value)

    def grow(self, size):
        self.buffer = ctypes.create_string_buffer(size)

    def wake(self):
        self.hub.lib.hmq_inbox_wake(self.handle)

    def free(self):
        self.hub.lib.hmq_inbox_free(self.handle)
