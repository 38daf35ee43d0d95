package main

import (
	"encoding/binary"
	"fmt"
)

// Sizes of docs/packed-frames.md.
const (
	head       = 88
	noKey      = 0xFFFF
	kindOfTask = 1 // HMQ_EV_MESSAGE
)

// event is a frame, decoded; its bytes are good until the next read.
type event struct {
	kind, flags    uint16
	tag, token     uint64
	timestampUs    int64
	status         Status
	attempt        uint32
	topic, id, typ string
	key, payload   []byte
	headers        map[string]string
}

// decode walks over the frames of one read.
func decode(frames []byte) (events []event, err error) {
	le := binary.LittleEndian
	for len(frames) > 0 {
		size := le.Uint32(frames)
		if size < head || int(size) > len(frames) {
			return nil, fmt.Errorf("a frame of %d bytes where %d are left", size, len(frames))
		}
		f := frames[:size]
		frames = frames[size:]
		e := event{
			kind: le.Uint16(f[4:]), flags: le.Uint16(f[6:]), tag: le.Uint64(f[8:]), token: le.Uint64(f[16:]),
			timestampUs: int64(le.Uint64(f[24:])), status: Status(le.Uint32(f[32:])), attempt: le.Uint32(f[36:]),
			headers: map[string]string{},
		}
		rest := f[head:]
		take := func(length int) []byte {
			piece := rest[:length]
			rest = rest[length:]
			return piece
		}
		e.topic = string(take(int(le.Uint16(f[48:]))))
		if length := le.Uint16(f[50:]); length != noKey {
			e.key = take(int(length))
		}
		e.id, e.typ = string(take(int(f[52]))), string(take(int(f[53])))
		for block := take(int(le.Uint32(f[44:]))); len(block) > 0; {
			name, value := int(le.Uint16(block)), int(le.Uint32(block[2:]))
			e.headers[string(block[6:6+name])] = string(block[6+name : 6+name+value])
			block = block[6+name+value:]
		}
		e.payload = take(int(le.Uint32(f[40:])))
		events = append(events, e)
	}
	return events, nil
}

// appendFrame appends a message to send: everything that is zero is left to the publisher.
func appendFrame(frames, payload []byte) []byte {
	le := binary.LittleEndian
	start := len(frames)
	size := (head + len(payload) + 7) &^ 7
	frames = append(frames, make([]byte, size)...)
	f := frames[start:]
	le.PutUint32(f, uint32(size))
	le.PutUint16(f[4:], kindOfTask)
	le.PutUint32(f[40:], uint32(len(payload)))
	le.PutUint16(f[50:], noKey)
	f[54] = 0xFF // priority -1: the publisher's
	copy(f[head:], payload)
	return frames
}
