package configs

import (
	"reflect"
	"slices"
)

// Changed returns the keys in which two configurations differ, such as gate.mode, in their
// order. A list is one key.
func Changed(a, b Config) []string {
	return changed("", reflect.ValueOf(a), reflect.ValueOf(b))
}

func changed(path string, a, b reflect.Value) (keys []string) {
	if a.Kind() != reflect.Struct {
		if !reflect.DeepEqual(a.Interface(), b.Interface()) && !(a.Kind() == reflect.Slice && a.Len() == 0 && b.Len() == 0) {
			keys = []string{path}
		}
		return keys
	}
	for i := range a.NumField() {
		keys = slices.Concat(keys, changed(join(path, a.Type().Field(i).Tag.Get("yaml")), a.Field(i), b.Field(i)))
	}
	return keys
}
