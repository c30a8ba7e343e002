package api_test

import (
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/sluicegate/sluice/proxy/api"
)

// What a stranger can send to a check is bounded, and what is not meant is refused.
func TestCheckRequests(t *testing.T) {
	many := `{"images": ["a/b"` + strings.Repeat(`, "a/b"`, 100) + `]}`
	for _, tt := range []struct {
		description, method, kind, body string
		anonymous                       bool
		code                            int
		want                            string
	}{
		{"an image", "POST", "application/json; charset=utf-8", `{"image": "acme/web:1", "platform": "linux/arm64", "namespace": "dev"}`, true, 200, `"platform": "linux/arm64 dev check"`},
		{"an action", "POST", "application/json", `{"image": "acme/web:1", "platform": "linux/arm64", "action": "admission", "wait": "1s"}`, true, 200, `"platform": "linux/arm64  admission"`},
		{"an image that is none", "POST", "application/json", `{"image": "acme/none:1"}`, true, 404, "no such image"},
		{"a caller of another name", "POST", "application/json", `{"image": "acme/web:1", "caller": "root"}`, true, 400, "unknown field"},
		{"nothing", "POST", "application/json", `{}`, true, 400, "either an image or images"},
		{"both", "POST", "application/json", `{"image": "a/b", "images": ["a/b"]}`, true, 400, "either an image or images"},
		{"too many", "POST", "application/json", many, true, 400, "more than 100 images"},
		{"too much", "POST", "application/json", `{"image": "` + strings.Repeat("a", 64<<10) + `"}`, true, 413, "64 KiB"},
		{"two objects", "POST", "application/json", `{"image": "acme/web:1"} {}`, true, 400, "one JSON object"},
		{"no JSON", "POST", "application/json", `image=acme/web:1`, true, 400, "one JSON object"},
		{"an action that is none", "POST", "application/json", `{"image": "acme/web:1", "action": "delete"}`, true, 400, "action must be"},
		{"a namespace that is none", "POST", "application/json", `{"image": "acme/web:1", "namespace": "a\nb"}`, true, 400, "namespace is no name"},
		{"a wait without end", "POST", "application/json", `{"image": "acme/web:1", "wait": "9h"}`, true, 400, "wait must be"},
		{"a page in a browser", "POST", "text/plain", `{"image": "acme/web:1"}`, true, 415, "application/json"},
		{"another method", "GET", "", "", true, 405, "only POST"},
		{"an unknown caller", "POST", "application/json", `{"image": "acme/web:1"}`, false, 401, "docker login"},
	} {
		t.Run(tt.description, func(t *testing.T) {
			code, body := postCheck(t, tt.method, tt.kind, tt.body, tt.anonymous)
			if code != tt.code || !strings.Contains(body, tt.want) {
				t.Errorf("%d %s", code, body)
			}
		})
	}
}

func postCheck(t *testing.T, method, kind, body string, anonymous bool) (int, string) {
	t.Helper()
	h := &api.Handler{Gateway: &oracle{}, Admit: admit(anonymous), Log: slog.New(slog.DiscardHandler)}
	r := httptest.NewRequest(method, "/api/v1/check", strings.NewReader(body))
	r.Header.Set("Content-Type", kind)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

// One image that can't be found out about takes the others' answers away from nobody, but
// all together are not allowed.
func TestCheckSeveral(t *testing.T) {
	check := func(body string) (c api.Checked) {
		t.Helper()
		code, text := postCheck(t, "POST", "application/json", body, true)
		if err := json.Unmarshal([]byte(text), &c); err != nil || code != 200 {
			t.Fatalf("%d %s", code, text)
		}
		if strings.Contains(text, "marker") {
			t.Errorf("an inner fault is told: %s", text)
		}
		return c
	}
	if c := check(`{"images": ["acme/web:1", "acme/web:1"]}`); !c.Allow || len(c.Answers) != 2 || c.Answers[0].Answer == nil {
		t.Errorf("%+v", c)
	}
	c := check(`{"images": ["acme/web:1", "acme/none:1", "acme/broken:1"]}`)
	if c.Allow || c.Answers[0].Answer == nil || c.Answers[1].Error == nil || c.Answers[1].Error.Status != 404 || c.Answers[1].Image != "acme/none:1" || c.Answers[2].Error.Status != 500 {
		t.Errorf("%+v", c)
	}
	if c := check(`{"images": ["acme/web:1"], "namespace": "prod"}`); c.Allow || c.Answers[0].Answer == nil {
		t.Errorf("%+v", c)
	}
}
