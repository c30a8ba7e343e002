package policy

import "testing"

// What one field of a stranger's config holds must not hide the others from policy.
func TestDescribe(t *testing.T) {
	for _, tt := range []struct{ name, config, user, label, created string }{
		{"whole", `{"created":"2026-01-02T03:04:05+02:00","os":"linux","architecture":"arm64","config":{"User":"65532","Labels":{"a":"b"}}}`, "65532", "b", "2026-01-02T01:04:05Z"},
		{"date that is none", `{"created":"yesterday","os":"linux","architecture":"arm64","config":{"User":"65532","Labels":{"a":"b"}}}`, "65532", "b", ""},
		{"type that differs", `{"created":5,"os":"linux","architecture":"arm64","config":{"Cmd":7,"User":"65532","Labels":{"a":"b"}}}`, "65532", "b", ""},
		{"no JSON", `{"config":`, "", "", ""},
		{"none", ``, "", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var i Image
			i.Describe(nil, []byte(tt.config))
			if i.User != tt.user || i.Labels["a"] != tt.label || i.Created != tt.created {
				t.Errorf("user %q, label %q, created %q", i.User, i.Labels["a"], i.Created)
			}
			if want := tt.user != ""; (i.Platform == "linux/arm64") != want {
				t.Errorf("platform %q", i.Platform)
			}
		})
	}
}
