package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

/*
#include "helixmq.h"
*/
import "C"

const (
	waitMs = 10000
	tasks  = 100
	tag    = 7
)

func main() {
	if err := run(); err != nil {
		fmt.Println("FAIL:", err)
		os.Exit(1)
	}
}

func run() error {
	if Status(C.hmq_abi_check(C.HMQ_ABI, nil)) != C.HMQ_OK {
		return errors.New("the library does not fit the header")
	}
	_, err := Open(`{"nope": 1}`)
	var failed *Error
	if !errors.As(err, &failed) || !errors.Is(err, Status(C.HMQ_E_CONFIG)) {
		return fmt.Errorf("a wrong configuration: %w", err)
	}
	fmt.Printf("wrong configuration: %s at %v\n", failed.Status.Error(), failed.JSON["path"])

	hub, err := Open("{}")
	if err != nil {
		return err
	}
	defer hub.Free()
	inbox, err := hub.NewInbox()
	if err != nil {
		return err
	}
	defer inbox.Free()
	sub, err := inbox.Subscribe(hub, `{"topic": "tasks.ffi"}`, tag)
	if err != nil {
		return err
	}
	defer sub.Free()

	steps := []func(*Hub, *Inbox) error{manyTasks, everyField, tooLarge, wakeUp, cancelled}
	for _, step := range steps {
		if err := step(hub, inbox); err != nil {
			return err
		}
	}
	if err := sub.Close(); err != nil {
		return err
	}
	events, err := receive(inbox, 1)
	if err != nil {
		return err
	}
	fmt.Printf("end: kind %d, tag %d, %s\n", events[0].kind, events[0].tag, events[0].status.Error())
	return closing(hub)
}

// manyTasks publishes from another goroutine, settles in batches, and lets one in ten come again.
func manyTasks(hub *Hub, inbox *Inbox) error {
	var wg sync.WaitGroup
	wg.Add(1)
	var published error
	var packed int
	go func() {
		defer wg.Done()
		var frames []byte
		for n := uint32(1); n <= tasks && published == nil; n++ {
			payload := binary.LittleEndian.AppendUint32(nil, n)
			if n%2 == 0 {
				frames = appendFrame(frames, payload)
			} else {
				published = hub.PublishTask("tasks.ffi", payload)
			}
		}
		if published == nil {
			packed, published = hub.PublishPacked(`{"topic": "tasks.ffi"}`, frames)
		}
	}()
	sum, came := uint32(0), map[uint32]int{}
	var last uint64
	for open := tasks; open > 0; {
		events, err := receive(inbox, 0)
		if err != nil {
			return err
		}
		tokens, verdicts := make([]uint64, len(events)), make([]int32, len(events))
		for i, event := range events {
			number := binary.LittleEndian.Uint32(event.payload)
			came[event.attempt]++
			tokens[i], verdicts[i] = event.token, C.HMQ_ACK
			if number%10 == 0 && event.attempt == 1 {
				verdicts[i] = C.HMQ_RETRY
			} else {
				sum += number
				open--
			}
		}
		if _, err := Settle(tokens, verdicts); err != nil {
			return err
		}
		last = tokens[0]
	}
	wg.Wait()
	if published != nil {
		return published
	}
	fmt.Printf("packed: %d\n", packed)
	fmt.Printf("tasks: %d first, %d second attempts, sum %d\n", came[1], came[2], sum)
	results, err := Settle([]uint64{last}, []int32{C.HMQ_ACK})
	if err != nil {
		return err
	}
	fmt.Printf("a second settle: %s\n", results[0].Error())
	return nil
}

func everyField(hub *Hub, inbox *Inbox) error {
	sent := &Message{
		Topic: "tasks.ffi", ID: "id-1", Type: "greeting", Key: []byte{0, 255}, Payload: []byte("grüße"),
		Headers: map[string]string{"lang": "de"},
	}
	if err := hub.Send(sent); err != nil {
		return err
	}
	events, err := receive(inbox, 1)
	if err != nil {
		return err
	}
	m := events[0]
	fmt.Printf("fields: %s %s %s %x %s %s attempt %d\n", m.topic, m.id, m.typ, m.key, m.payload, fmt.Sprint(m.headers)[3:], m.attempt)
	_, err = Settle([]uint64{m.token}, []int32{C.HMQ_ACK})
	return err
}

// tooLarge reads with a buffer that is too small: nothing is lost, and the size is told.
func tooLarge(hub *Hub, inbox *Inbox) error {
	if err := hub.PublishTask("tasks.ffi", make([]byte, 5000)); err != nil {
		return err
	}
	_, status, needed := inbox.read(64)
	if needed <= 5000 || needed > 5500 {
		return fmt.Errorf("a frame of 5000 bytes needs %d", needed)
	}
	fmt.Printf("small buffer: %s\n", status.Error())
	events, err := receive(inbox, 1)
	if err != nil {
		return err
	}
	fmt.Printf("then: %d bytes\n", len(events[0].payload))
	_, err = Settle([]uint64{events[0].token}, []int32{C.HMQ_ACK})
	return err
}

func wakeUp(_ *Hub, inbox *Inbox) error {
	var stop atomic.Bool
	go func() {
		stop.Store(true)
		inbox.Wake()
	}()
	frames, err := inbox.Wait(context.Background(), &stop)
	fmt.Printf("woken: %d bytes read\n", len(frames))
	return err
}

// cancelled ends a wait by its context, and the inbox can be used on.
func cancelled(hub *Hub, inbox *Inbox) error {
	ctx, cancel := context.WithCancel(context.Background())
	go cancel()
	_, err := inbox.Wait(ctx, new(atomic.Bool))
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("a cancelled wait: %w", err)
	}
	return inbox.file.SetReadDeadline(time.Time{})
}

func closing(hub *Hub) error {
	for range 2 {
		if err := hub.Close(); err != nil {
			return err
		}
	}
	var failed *Error
	if errors.As(hub.PublishTask("tasks.ffi", nil), &failed) {
		fmt.Printf("publish after close: %s\n", failed.Status.Error())
	}
	hub.Free()
	if errors.As(hub.PublishTask("tasks.ffi", nil), &failed) {
		fmt.Printf("publish after free: %s\n", failed.Status.Error())
	}
	return nil
}

// receive waits for events and decodes them; `exactly` of them, unless it is 0.
func receive(inbox *Inbox, exactly int) ([]event, error) {
	ctx, cancel := context.WithTimeout(context.Background(), waitMs*time.Millisecond)
	defer cancel()
	frames, err := inbox.Wait(ctx, new(atomic.Bool))
	if err != nil {
		return nil, err
	}
	events, err := decode(frames)
	if err == nil && exactly > 0 && len(events) != exactly {
		err = fmt.Errorf("%d events came, %d were expected", len(events), exactly)
	}
	return events, err
}
