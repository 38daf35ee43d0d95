"""Uses the C ABI from Python; prints the same as the Go program beside it."""

import selectors
import struct
import sys
import threading

import hmq
from frames import decode, encode

TASKS, TAG = 100, 7


class Program:
    def __init__(self, path):
        self.lib = hmq.load(path)
        assert self.lib.hmq_abi_check(hmq.ABI, None) == hmq.OK
        try:
            hmq.Hub(self.lib, b'{"nope": 1}')
        except hmq.Error as error:
            print(f"wrong configuration: {error.name} at {error.details['path']}")
        self.hub = hmq.Hub(self.lib, b"{}")
        self.inbox = hmq.Inbox(self.hub)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.inbox, selectors.EVENT_READ)

    def receive(self, exactly=0):
        """Waits for events and decodes them; `exactly` of them, unless it is 0."""
        while True:
            assert self.selector.select(hmq.WAIT_MS / 1000), "no events came"
            status, frames = self.inbox.read()
            if status == hmq.E_TOO_LARGE:
                self.inbox.grow(frames)
            elif status == hmq.OK:
                break
        events = decode(frames)
        assert exactly in (0, len(events)), f"{len(events)} events came, {exactly} were expected"
        return events

    def run(self):
        sub = self.inbox.subscribe(b'{"topic": "tasks.ffi"}', TAG)
        self.many_tasks()
        self.every_field()
        self.too_large()
        self.wake_up()
        self.hub.call("hmq_sub_close", sub, hmq.WAIT_MS)
        (end,) = self.receive(1)
        print(f"end: kind {end.kind}, tag {end.tag}, {self.hub.status_name(end.status)}")
        self.close(sub)

    def many_tasks(self):
        """Publishes from another thread, settles in batches, and lets one in ten come again."""
        hub, packed = self.hub, []

        def publish():
            for number in range(1, TASKS + 1, 2):
                hub.publish_task(b"tasks.ffi", struct.pack("<I", number))
            frames = b"".join(encode(struct.pack("<I", number)) for number in range(2, TASKS + 1, 2))
            packed.append(hub.publish_packed(b'{"topic": "tasks.ffi"}', frames))

        publisher = threading.Thread(target=publish)
        publisher.start()
        total, came, left = 0, {1: 0, 2: 0}, TASKS
        while left > 0:
            verdicts = []
            for event in self.receive():
                (number,) = struct.unpack("<I", event.payload)
                came[event.attempt] += 1
                again = number % 10 == 0 and event.attempt == 1
                verdicts.append((event.token, hmq.RETRY if again else hmq.ACK))
                total += 0 if again else number
                left -= 0 if again else 1
            results = hub.settle_many(verdicts)
            assert set(results) == {"HMQ_OK"}, results
        publisher.join()
        print("packed:", *packed)
        print(f"tasks: {came[1]} first, {came[2]} second attempts, sum {total}")
        print("a second settle:", *hub.settle_many([(verdicts[0][0], hmq.ACK)]))

    def every_field(self):
        headers = {b"lang": b"de"}
        self.hub.send(b"tasks.ffi", "grüße".encode(), id=b"id-1", type=b"greeting", key=b"\x00\xff", headers=headers)
        (m,) = self.receive(1)
        headers = " ".join(f"{name}:{value.decode()}" for name, value in m.headers.items())
        print(f"fields: {m.topic} {m.id} {m.type} {m.key.hex()} {m.payload.decode()} [{headers}] attempt {m.attempt}")
        self.hub.settle_many([(m.token, hmq.ACK)])

    def too_large(self):
        """Reads with a buffer that is too small: nothing is lost, and the size is told."""
        self.hub.publish_task(b"tasks.ffi", bytes(5000))
        status, needed = self.inbox.read(64)
        assert 5000 < needed < 5500, needed
        print(f"small buffer: {self.hub.status_name(status)}")
        (event,) = self.receive(1)
        print(f"then: {len(event.payload)} bytes")
        self.hub.settle_many([(event.token, hmq.ACK)])

    def wake_up(self):
        assert self.inbox.read()[0] == hmq.NO_DATA
        assert not self.selector.select(0), "the descriptor is readable, but the inbox is empty"
        threading.Thread(target=self.inbox.wake).start()
        assert self.selector.select(hmq.WAIT_MS / 1000), "not woken"
        status, frames = self.inbox.read()
        assert status == hmq.NO_DATA, status
        print(f"woken: {len(frames)} bytes read")
        # A wake-up may still be on its way when the poll that it ended returns; the next clears it.
        assert self.inbox.read()[0] == hmq.NO_DATA

    def close(self, sub):
        hub = self.hub
        hub.close()
        hub.close()
        for when, free in (("close", hub.free), ("free", lambda: None)):
            try:
                hub.publish_task(b"tasks.ffi", b"")
            except hmq.Error as error:
                print(f"publish after {when}: {error.name}")
            free()
        self.lib.hmq_sub_free(sub)
        self.selector.close()
        self.inbox.free()
        assert self.lib.hmq_useless_frees() == 0


Program(sys.argv[1]).run()
