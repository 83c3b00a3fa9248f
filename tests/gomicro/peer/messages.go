package main

import "github.com/golang/protobuf/proto"

// Ask is the request of every method, as protos/peer/v1/peer.proto has it.
type Ask struct {
	Text    string            `protobuf:"bytes,1,opt,name=text,proto3" json:"text,omitempty"`
	Count   int32             `protobuf:"varint,2,opt,name=count,proto3" json:"count,omitempty"`
	Code    int32             `protobuf:"varint,3,opt,name=code,proto3" json:"code,omitempty"`
	SleepMs int64             `protobuf:"varint,4,opt,name=sleep_ms,json=sleepMs,proto3" json:"sleep_ms,omitempty"`
	Tags    map[string]string `protobuf:"bytes,5,rep,name=tags,proto3" json:"tags,omitempty" protobuf_key:"bytes,1,opt,name=key,proto3" protobuf_val:"bytes,2,opt,name=value,proto3"`
}

func (m *Ask) Reset()         { *m = Ask{} }
func (m *Ask) String() string { return proto.CompactTextString(m) }
func (*Ask) ProtoMessage()    {}

// Answer is the response of every method.
type Answer struct {
	Text   string            `protobuf:"bytes,1,opt,name=text,proto3" json:"text,omitempty"`
	Node   string            `protobuf:"bytes,2,opt,name=node,proto3" json:"node,omitempty"`
	Saw    map[string]string `protobuf:"bytes,3,rep,name=saw,proto3" json:"saw,omitempty" protobuf_key:"bytes,1,opt,name=key,proto3" protobuf_val:"bytes,2,opt,name=value,proto3"`
	LeftMs int64             `protobuf:"varint,4,opt,name=left_ms,json=leftMs,proto3" json:"left_ms,omitempty"`
}

func (m *Answer) Reset()         { *m = Answer{} }
func (m *Answer) String() string { return proto.CompactTextString(m) }
func (*Answer) ProtoMessage()    {}
