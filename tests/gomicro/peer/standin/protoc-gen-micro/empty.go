// Package micro stands in for a module that go-micro 1.18 requires, imports
// nowhere, and that can no longer be had.
package micro
