// Package main uses the C ABI from Go, as a binding would: no callback, one descriptor in the
// network poller of the runtime, packed frames.
package main

/*
#cgo LDFLAGS: -lhelixmq
#cgo noescape hmq_inbox_read
#cgo nocallback hmq_inbox_read
#cgo noescape hmq_pub_send_packed
#cgo noescape hmq_settle_many
#cgo nocallback hmq_settle_many
#include <stdlib.h>
#include "helixmq.h"
*/
import "C"

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// Status is how a call ended; below zero it is an error, and errors.Is tells which.
type Status int32

func (s Status) Error() string { return C.GoString(C.hmq_status_name(C.hmq_status(s))) }

// Error is a Status with its details.
type Error struct {
	Status Status
	JSON   map[string]any
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %v", e.Status.Error(), e.JSON["message"]) }

// Unwrap makes errors.Is(err, Status(...)) work.
func (e *Error) Unwrap() error { return e.Status }

// check makes a Go error out of a status, and frees the error of the library.
func check(status C.hmq_status, err **C.hmq_error) error {
	if status >= 0 {
		return nil
	}
	defer C.hmq_error_free(*err)
	var length C.size_t
	text := C.hmq_error_json(*err, &length)
	out := &Error{Status: Status(status)}
	if broken := json.Unmarshal(C.GoBytes(unsafe.Pointer(text), C.int(length)), &out.JSON); broken != nil {
		return fmt.Errorf("%s, and its details are no JSON: %w", out.Status.Error(), broken)
	}
	return out
}

// str hands a Go string to a call for the time of the call: the library copies what it needs.
func str(text string) (*C.char, C.size_t) {
	return (*C.char)(unsafe.Pointer(unsafe.StringData(text))), C.size_t(len(text))
}

// Hub owns everything else.
type Hub struct{ c *C.hmq_hub }

// Open opens a hub.
func Open(config string) (*Hub, error) {
	var err *C.hmq_error
	var hub *C.hmq_hub
	text, length := str(config)
	if failed := check(C.hmq_hub_open(text, length, waitMs, &hub, &err), &err); failed != nil {
		return nil, failed
	}
	return &Hub{hub}, nil
}

// PublishTask publishes one task.
func (h *Hub) PublishTask(queue string, payload []byte) error {
	var err *C.hmq_error
	name, length := str(queue)
	data, size := unsafe.Pointer(unsafe.SliceData(payload)), C.size_t(len(payload))
	return check(C.hmq_publish_task(h.c, name, length, data, size, waitMs, nil, &err), &err)
}

// Message is what Send sends, and what a frame holds.
type Message struct {
	Topic, ID, Type string
	Key, Payload    []byte
	Headers         map[string]string
}

// Send publishes a message with everything. What the record points to is pinned for the call.
func (h *Hub) Send(m *Message) error {
	var err *C.hmq_error
	var pins runtime.Pinner
	defer pins.Unpin()
	pinned := func(text string) (*C.char, C.size_t) {
		if text == "" {
			return nil, 0
		}
		pins.Pin(unsafe.StringData(text))
		return str(text)
	}
	record := C.hmq_record{size: C.sizeof_hmq_record, priority: -1}
	record.topic, record.topic_len = pinned(m.Topic)
	record.id, record.id_len = pinned(m.ID)
	record._type, record.type_len = pinned(m.Type)
	key, keyLen := pinned(string(m.Key))
	record.key, record.key_len = unsafe.Pointer(key), keyLen
	payload, payloadLen := pinned(string(m.Payload))
	record.payload, record.payload_len = unsafe.Pointer(payload), payloadLen
	headers := make([]C.hmq_header, 0, len(m.Headers))
	for name, value := range m.Headers {
		var header C.hmq_header
		header.name, header.name_len = pinned(name)
		text, size := pinned(value)
		header.value, header.value_len = unsafe.Pointer(text), size
		headers = append(headers, header)
	}
	if len(headers) > 0 {
		pins.Pin(&headers[0])
		record.headers, record.header_count = &headers[0], C.size_t(len(headers))
	}
	return check(C.hmq_send(h.c, &record, waitMs, nil, &err), &err)
}

// PublishPacked publishes a buffer of frames with one call, and answers how many were taken.
func (h *Hub) PublishPacked(options string, frames []byte) (int, error) {
	var err *C.hmq_error
	var publisher *C.hmq_pub
	text, length := str(options)
	if failed := check(C.hmq_pub_new(h.c, text, length, &publisher, &err), &err); failed != nil {
		return 0, failed
	}
	defer C.hmq_pub_free(publisher)
	var accepted C.size_t
	data, size := unsafe.Pointer(unsafe.SliceData(frames)), C.size_t(len(frames))
	status := C.hmq_pub_send_packed(publisher, data, size, waitMs, nil, &accepted, &err)
	return int(accepted), check(status, &err)
}

// Close closes the hub in order; a second time is fine.
func (h *Hub) Close() error {
	var err *C.hmq_error
	return check(C.hmq_hub_close(h.c, waitMs, &err), &err)
}

// Free frees the handle.
func (h *Hub) Free() { C.hmq_hub_free(h.c) }

// Inbox is a queue with a descriptor that the runtime's network poller watches: a goroutine that
// waits costs no thread.
type Inbox struct {
	c    *C.hmq_inbox
	file *os.File
	buf  []byte
}

// NewInbox makes an inbox. The descriptor belongs to the library, so Go gets a dup of it.
func (h *Hub) NewInbox() (*Inbox, error) {
	var err *C.hmq_error
	var inbox *C.hmq_inbox
	text, length := str("{}")
	if failed := check(C.hmq_inbox_new(h.c, text, length, &inbox, &err), &err); failed != nil {
		return nil, failed
	}
	fd, failed := syscall.Dup(int(C.hmq_inbox_fd(inbox)))
	if failed != nil {
		return nil, failed
	}
	// The poller takes it only if it does not block; O_NONBLOCK is shared with the original.
	if failed := syscall.SetNonblock(fd, true); failed != nil {
		return nil, failed
	}
	return &Inbox{c: inbox, file: os.NewFile(uintptr(fd), "inbox"), buf: make([]byte, 4096)}, nil
}

// Subscribe lets messages come into the inbox.
func (i *Inbox) Subscribe(h *Hub, options string, tag uint64) (*Sub, error) {
	var err *C.hmq_error
	var sub *C.hmq_sub
	text, length := str(options)
	status := C.hmq_subscribe_inbox(h.c, text, length, i.c, C.uint64_t(tag), waitMs, &sub, &err)
	if failed := check(status, &err); failed != nil {
		return nil, failed
	}
	return &Sub{sub}, nil
}

// read takes what is there, without waiting; the frames are good until the next read.
func (i *Inbox) read(cap int) ([]byte, Status, int) {
	var size, count C.size_t
	status := C.hmq_inbox_read(i.c, unsafe.Pointer(&i.buf[0]), C.size_t(cap), 0, &size, &count)
	if status != C.HMQ_OK {
		return nil, Status(status), int(size)
	}
	return i.buf[:size], C.HMQ_OK, int(size)
}

// Wait takes events; it waits in the network poller until there is one, ctx is done, or stop is
// set and the inbox was woken. The poller is edge-triggered: the function below answers false,
// "wait", only after a read that found nothing.
func (i *Inbox) Wait(ctx context.Context, stop *atomic.Bool) (frames []byte, err error) {
	raw, err := i.file.SyscallConn()
	if err != nil {
		return nil, err
	}
	forget := context.AfterFunc(ctx, func() { _ = i.file.SetReadDeadline(time.Unix(1, 0)) })
	defer forget()
	err = raw.Read(func(uintptr) bool {
		var status Status
		var needed int
		frames, status, needed = i.read(len(i.buf))
		if status == C.HMQ_E_TOO_LARGE {
			i.buf = make([]byte, needed)
			frames, status, _ = i.read(needed)
		}
		return status != C.HMQ_NO_DATA || stop.Load()
	})
	return frames, err
}

// Wake wakes whoever waits.
func (i *Inbox) Wake() { C.hmq_inbox_wake(i.c) }

// Free frees the inbox, and the dup of its descriptor.
func (i *Inbox) Free() {
	_ = i.file.Close()
	C.hmq_inbox_free(i.c)
}

// Sub is a subscription.
type Sub struct{ c *C.hmq_sub }

// Close closes it in order.
func (s *Sub) Close() error {
	var err *C.hmq_error
	return check(C.hmq_sub_close(s.c, waitMs, &err), &err)
}

// Free frees the handle.
func (s *Sub) Free() { C.hmq_sub_free(s.c) }

// Settle settles many deliveries with one call, and answers how each ended.
func Settle(tokens []uint64, verdicts []int32) ([]Status, error) {
	settlements := make([]C.hmq_settlement, len(tokens))
	for n := range settlements {
		settlements[n].size = C.sizeof_hmq_settlement
		settlements[n].token = C.hmq_token(tokens[n])
		settlements[n].verdict = C.hmq_verdict(verdicts[n])
	}
	var err *C.hmq_error
	if failed := check(C.hmq_settle_many(&settlements[0], C.size_t(len(settlements)), &err), &err); failed != nil {
		return nil, failed
	}
	results := make([]Status, len(settlements))
	for n := range results {
		results[n] = Status(settlements[n].result)
	}
	return results, nil
}
