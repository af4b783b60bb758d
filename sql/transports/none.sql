-- No transport: this server lets nothing out, so queries are embedded on the client's side.

CREATE OR REPLACE FUNCTION embed._call(request text, timeout double precision)
RETURNS text
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = 'PE013',
        MESSAGE = 'this database has no transport to a sidecar',
        HINT = CASE WHEN request::jsonb ->> 'op' = 'rerank' THEN 'only the database''s transport reranks: leave rerank out, or rerank by ''multi'', or score the texts of the hits in the client'
            ELSE '"pg-embed doctor" tells which transports this server allows; or embed the text in the client: Client(dsn, in_process=True).search(...), or with SQLAlchemy embed_with(engine, client)' END;
END $$;
COMMENT ON FUNCTION embed._call(text, double precision) IS 'Send a request to the sidecar and return its answer: there is no transport here.';
REVOKE ALL ON FUNCTION embed._call(text, double precision) FROM PUBLIC;
